package prove

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/weir-gateway/weir/blocklists"
)

const schema = "weir-prove/1"

// A Report is what was tried, when, and what was seen.
type Report struct {
	Schema     string    `json:"schema"`
	Weir       string    `json:"weir"`
	Go         string    `json:"go"`
	System     string    `json:"system"`
	Started    time.Time `json:"started"`
	Ended      time.Time `json:"ended"`
	Gateway    string    `json:"gateway"`
	Generation uint32    `json:"generation"` // that the gateway judged by at the start; 0: it did not say
	Evidence   string    `json:"evidence"`
	IPv6       bool      `json:"ipv6"` // whether this device has it
	Bans       []Ban     `json:"bans"`
	Rows       []Row     `json:"rows"`
	Passed     bool      `json:"passed"`
}

// A Ban is one of those that were tried.
type Ban struct {
	ID string `json:"id"`
	EN string `json:"en"`
	FR string `json:"fr"`
}

// A Row is one route against one ban, or against none.
type Row struct {
	Route    string    `json:"route"`
	Ban      string    `json:"ban,omitempty"`
	Tries    string    `json:"tries"`
	Trap     string    `json:"trap,omitempty"`
	Closed   string    `json:"closed_means,omitempty"`
	Open     string    `json:"open_means,omitempty"`
	Outcome  Outcome   `json:"outcome"`
	Attempts []Attempt `json:"attempts"`
}

// An Attempt is one probe of a row.
type Attempt struct {
	Target string `json:"target"`
	Finding
	Milliseconds int64 `json:"ms"`
}

// fill makes rows of attempts.
func (r *Report) fill(o Options, plan []attempt, results []Attempt) {
	for _, t := range o.Targets {
		title := title(t.Title)
		r.Bans = append(r.Bans, Ban{t.Ban, title.EN, title.FR})
	}
	r.Passed = len(plan) > 0
	for i, a := range plan {
		ban := ""
		if a.ban >= 0 {
			ban = o.Targets[a.ban].Ban
		}
		if n := len(r.Rows); n == 0 || r.Rows[n-1].Route != a.route.ID || r.Rows[n-1].Ban != ban {
			r.Rows = append(r.Rows, Row{Route: a.route.ID, Ban: ban, Tries: a.route.Tries, Trap: a.route.Trap, Closed: a.route.Closed, Open: a.route.Open})
		}
		row := &r.Rows[len(r.Rows)-1]
		row.Attempts = append(row.Attempts, results[i])
		row.Outcome = worse(row.Outcome, results[i].Outcome)
		if o := results[i].Outcome; o == Open || o == Broken || o == "" {
			r.Passed = false
		}
	}
	for i := range r.Rows {
		r.Rows[i].settle()
	}
}

// settle keeps a row with attempts that could not be made from being "not tried"
// as a whole: what was tried decides, and the attempts say what was not.
func (row *Row) settle() {
	if row.Outcome != NotTried {
		return
	}
	for _, a := range row.Attempts {
		if a.Outcome == Closed || a.Outcome == Works {
			row.Outcome = a.Outcome
		}
	}
}

func title(t blocklists.Text) blocklists.Text {
	if t.EN == "" {
		t.EN = t.FR
	}
	if t.FR == "" {
		t.FR = t.EN
	}
	return t
}

// Count returns how many rows had that outcome.
func (r *Report) Count(o Outcome) (n int) {
	for i := range r.Rows {
		if r.Rows[i].Outcome == o {
			n++
		}
	}
	return n
}

// A signed report. The signature is over the report as it stands in the file,
// without white space.
type signed struct {
	Report    json.RawMessage `json:"report"`
	Algorithm string          `json:"algorithm"`
	PublicKey string          `json:"public_key"`
	Signature string          `json:"signature"`
}

// Sign returns the report as JSON with a signature.
func (r *Report) Sign(key ed25519.PrivateKey) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("the key is not one of Ed25519")
	}
	out, err := json.MarshalIndent(signed{body, "ed25519", base64.StdEncoding.EncodeToString(public),
		base64.StdEncoding.EncodeToString(ed25519.Sign(key, body))}, "", "  ")
	return append(out, '\n'), err
}

// Verify returns the report and the key that signed it, if the signature holds.
// Whose key it is, the caller must know.
func Verify(data []byte) (*Report, ed25519.PublicKey, error) {
	var s signed
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, nil, fmt.Errorf("not a signed report: %w", err)
	}
	public, err1 := base64.StdEncoding.DecodeString(s.PublicKey)
	signature, err2 := base64.StdEncoding.DecodeString(s.Signature)
	if err := errors.Join(err1, err2); err != nil || s.Algorithm != "ed25519" || len(public) != ed25519.PublicKeySize {
		return nil, nil, errors.New("not a report signed with Ed25519")
	}
	var body bytes.Buffer
	if err := json.Compact(&body, s.Report); err != nil {
		return nil, nil, err
	}
	if !ed25519.Verify(public, body.Bytes(), signature) {
		return nil, nil, errors.New("the signature does not hold: the report was changed after it was signed")
	}
	r := new(Report)
	if err := json.Unmarshal(s.Report, r); err != nil {
		return nil, nil, err
	}
	if r.Schema != schema {
		return nil, nil, fmt.Errorf("schema %q is not known here, want %s", r.Schema, schema)
	}
	return r, public, nil
}

// Key reads a private key, PKCS #8 in PEM, or makes the file with a new one. An
// empty name is a key that nobody keeps.
func Key(file string) (ed25519.PrivateKey, error) {
	if file == "" {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return newKey(file)
	}
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("key: %s is not PEM", file)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("key: %s is not an Ed25519 key in PKCS #8", file)
	}
	return key, nil
}

func newKey(file string) (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	err = pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return key, errors.Join(err, f.Close())
}
