package config

import "strings"

// maxSuggested bounds the words that an unknown one is compared with, and told.
const maxSuggested = 40

// suggest returns how an error about an unknown word goes on: with the word
// that was probably meant, or with all that there are.
func suggest(got string, known []string, all string) string {
	best, distance := "", len(got)/2+1
	more := ""
	if len(known) > maxSuggested {
		known, more = known[:maxSuggested], ", …"
	}
	for _, k := range known {
		if d := editDistance(strings.ToLower(got), k, 3); d < distance && d < 3 {
			best, distance = k, d
		}
	}
	switch {
	case best != "":
		return ", did you mean " + quote(best) + "?"
	case len(known) == 0:
		return ""
	}
	return "; " + all + strings.Join(known, ", ") + more
}

// editDistance returns how many letters must be added, removed, changed or
// swapped with their neighbour to make b of a, or limit if that many or more.
func editDistance(a, b string, limit int) int {
	// The difference in length is a lower bound, and a cheap one: a long word
	// out of a hostile file is not compared at all.
	if d := len(a) - len(b); d >= limit || -d >= limit {
		return limit
	}
	before, row, next := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row, next = row, next, before
	}
	return min(row[len(b)], limit)
}
