package prove

import (
	_ "embed"
	"html/template"
	"io"
	"time"
)

//go:embed report.html
var pageHTML string

var page = template.Must(template.New("report").Funcs(template.FuncMap{
	"utc": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"class": func(o Outcome) string {
		switch o {
		case Closed, Works:
			return "good"
		case Open, Broken:
			return "bad"
		}
		return "other"
	},
	"failed": func(rows []Row) (n int) {
		for _, r := range rows {
			if r.Outcome == Open || r.Outcome == Broken {
				n++
			}
		}
		return n
	},
	"seconds": func(r *Report) float64 { return r.Ended.Sub(r.Started).Seconds() },
}).Parse(pageHTML))

// HTML writes the report as one page that needs nothing else.
func (r *Report) HTML(w io.Writer) error { return page.Execute(w, r) }
