package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// A Problem is an error as the API shows it (RFC 9457). Its detail says what is
// wrong and what to do.
type Problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	// InForce: what was asked for is in force all the same, but for what the detail
	// says.
	InForce bool `json:"in_force,omitempty"`
}

// Error implements error.
func (p *Problem) Error() string { return p.Detail }

// Errorf returns a Problem with that HTTP status.
func Errorf(status int, format string, args ...any) error {
	return &Problem{Status: status, Title: http.StatusText(status), Detail: fmt.Sprintf(format, args...)}
}

// problem returns the error as a Problem; of any other error it is the
// gateway's own fault.
func problem(err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	return &Problem{Status: http.StatusInternalServerError, Title: http.StatusText(http.StatusInternalServerError), Detail: err.Error()}
}

func writeProblem(w http.ResponseWriter, err error) {
	p := problem(err)
	b, _ := json.MarshalIndent(p, "", "  ") // strings and a number
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(b, '\n'))
}
