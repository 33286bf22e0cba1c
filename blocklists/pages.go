package blocklists

// pages is a long slice in parts, so that it grows without being copied. None
// of it is a pointer to something else.
type pages[T any] [][]T

const (
	pageBits = 12
	pageSize = 1 << pageBits
)

func (p pages[T]) at(i uint32) *T { return &p[i>>pageBits][i&(pageSize-1)] }

// add appends and returns the new length.
func (p *pages[T]) add(v T) uint32 {
	last := len(*p) - 1
	if last < 0 || len((*p)[last]) == pageSize {
		var page []T
		if last >= 0 {
			page = make([]T, 0, pageSize)
		}
		*p = append(*p, page)
		last++
	}
	(*p)[last] = append((*p)[last], v)
	return uint32(last<<pageBits + len((*p)[last]))
}
