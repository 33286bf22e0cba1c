package prove

import (
	"bytes"
	"crypto/ed25519"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"text/tabwriter"
	"time"
)

// A Signed is a report with the signature of who made it. The signature is over
// the report's bytes as they stand in the document.
type Signed struct {
	Report    json.RawMessage   `json:"report"`
	PublicKey ed25519.PublicKey `json:"public_key"`
	Signature []byte            `json:"signature"`
}

// Sign returns the signed document, as JSON.
func Sign(r *Report, key ed25519.PrivateKey) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("not an Ed25519 key")
	}
	return json.Marshal(Signed{body, pub, ed25519.Sign(key, body)})
}

// Verify checks a signed document and returns its report. Whose the key is, the
// caller must know.
func Verify(doc []byte) (*Report, ed25519.PublicKey, error) {
	var s Signed
	if err := json.Unmarshal(doc, &s); err != nil {
		return nil, nil, fmt.Errorf("not a signed report: %w", err)
	}
	if len(s.PublicKey) != ed25519.PublicKeySize || !ed25519.Verify(s.PublicKey, s.Report, s.Signature) {
		return nil, nil, errors.New("the signature does not fit the report: it was changed, or never signed")
	}
	r := new(Report)
	if err := json.Unmarshal(s.Report, r); err != nil {
		return nil, nil, fmt.Errorf("report: %w", err)
	}
	return r, s.PublicKey, nil
}

// Counts returns how many attempts had each outcome.
func (r *Report) Counts() map[Outcome]int {
	n := make(map[Outcome]int)
	for i := range r.Results {
		n[r.Results[i].Outcome]++
	}
	return n
}

// WriteTable writes the results as text, a line each. Without all, only those
// that are not as they should be, and the sum.
func (r *Report) WriteTable(w io.Writer, all bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i := range r.Results {
		if x := &r.Results[i]; all || x.Failed() {
			_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", x.Outcome, x.Route, x.Ban, x.Tried, x.Detail)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	n := r.Counts()
	_, err := fmt.Fprintf(w, "%d closed, %d OPEN, %d work, %d BROKEN, %d cannot be closed, %d not tried; generation %d, %s\n",
		n[Closed], n[Open], n[Works], n[Broken], n[Unclosable], n[NotTried], r.Generation, r.Ended.Sub(r.Began).Round(100*time.Millisecond))
	return err
}

//go:embed report.html
var pageText string

var page = template.Must(template.New("report").Parse(pageText))

// WriteHTML writes the report as a page that needs nothing else.
func (r *Report) WriteHTML(w io.Writer) error {
	var b bytes.Buffer
	if err := page.Execute(&b, struct {
		*Report
		N map[Outcome]int
	}{r, r.Counts()}); err != nil {
		return err
	}
	_, err := w.Write(b.Bytes())
	return err
}
