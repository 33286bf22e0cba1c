package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"aead.dev/minisign"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/parse"
	"github.com/weir-gateway/weir/blocklists/source"
)

// A refusal is why a version of a list is not taken, beside what package source
// says of a fetch.
type refusal struct {
	reason string // a word for metrics
	msg    string
}

func (r *refusal) Error() string { return r.msg }

// Reasons of refusals. Those of inputs that are no list are package parse's.
const (
	reasonDigest    = "digest"
	reasonSignature = "signature"
	reasonDialect   = "dialect"   // read as what it should be, it says little or nothing
	reasonGrowth    = "growth"    // far more rules than before
	reasonShrink    = "shrink"    // far fewer
	reasonProtected = "protected" // it holds back a name that no list may
	reasonVectors   = "vectors"   // the checks of its ban fail
	reasonCompile   = "compile"   // the policy cannot be made with it
	reasonDiscarded = "discarded" // by a person
	reasonDropped   = "dropped"   // with the canary that had it first
	reasonOther     = "other"     // nothing that the list is to blame for
)

// reasonOf returns the word for why there is no new version.
func reasonOf(err error) string {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.reason
	}
	if e, ok := errors.AsType[*source.FetchError](err); ok {
		return string(e.Reason)
	}
	if e, ok := errors.AsType[*parse.InputError](err); ok {
		return e.What
	}
	return reasonOther
}

// digestAndVerify returns the digest of a version, as it was published, and
// checks it against what is asked of it. sign is the signature, if there has to
// be one.
func digestAndVerify(feed *blocklists.Feed, file string, sign []byte) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	sum, signed := sha256.New(), minisign.NewReader(f)
	if _, err := io.Copy(sum, signed); err != nil {
		return "", err
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	if feed.SHA256 != "" && digest != feed.SHA256 {
		return digest, &refusal{reasonDigest, fmt.Sprintf("the SHA-256 digest is %s, and only %s is taken", digest, feed.SHA256)}
	}
	if feed.Minisign == "" {
		return digest, nil
	}
	return digest, verify(feed, signed, sign)
}

func verify(feed *blocklists.Feed, signed *minisign.Reader, sign []byte) error {
	var key minisign.PublicKey
	if err := key.UnmarshalText([]byte(feed.Minisign)); err != nil {
		return &refusal{reasonSignature, err.Error()} // the configuration has checked it
	}
	var s minisign.Signature
	switch err := s.UnmarshalText(sign); {
	case err != nil:
		return &refusal{reasonSignature, "what is published as the signature is none of minisign"}
	case s.Algorithm != minisign.HashEdDSA:
		// The old form wants all of a list in memory.
		return &refusal{reasonSignature, "the signature is of minisign's old form: sign with minisign -H, which is the default since 0.10"}
	case !signed.Verify(key, sign):
		return &refusal{reasonSignature, "the signature is not by the list's key, or of another version"}
	}
	return nil
}

// check reads a version as the list that it should be, and returns how many
// rules it has, or why it is not taken. was is how many rules the version in
// force has, 0 for none.
func (f *feeds) check(ctx context.Context, list *blocklists.List, sh *shield, file string, was int) (int, error) {
	in, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer func() { _ = in.Close() }()
	text, err := source.Unpack(in, list.Feed.MaxSize)
	if err != nil {
		return 0, err
	}
	var pace pacer
	pace.begin()
	var buf []blocklists.Match
	held := ""
	report, err := parse.Load(parse.Format(list.Format), pacedReader{text, &pace}, parse.Limits{Bytes: list.Feed.MaxSize}, func(r blocklists.Rule) error {
		pace.step()
		if name := ""; sh != nil {
			if name, buf = sh.holds(&r, buf); name != "" && held == "" {
				held = fmt.Sprintf("line %d: the rule %s would hold back %s, which is protected: no list may", r.Line, r, strings.Clone(name))
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return 0, err
	}
	return report.Rules, judge(list, &report, was, held)
}

// judge says what is wrong with a list that could be read. The first reason is
// the one that says most.
func judge(list *blocklists.List, r *parse.Report, was int, held string) error {
	feed := list.Feed
	switch {
	case r.Rules == 0:
		return &refusal{reasonDialect, emptyList(*r).Error()}
	// Lists of this kind exist that are for the most part of no use here (cosmetic
	// rules of ABP), but not of 95 lines in 100.
	case r.SkippedLines > 19*r.RuleLines:
		return &refusal{reasonDialect, fmt.Sprintf("only %d of %d lines can be used as %s: is it really in that format?", r.RuleLines, r.RuleLines+r.SkippedLines, r.Format)}
	case r.Skips[parse.SkipHTML] > 0:
		return &refusal{parse.InputHTML, markupIn(r)}
	case held != "":
		return &refusal{reasonProtected, held}
	case was > 0 && r.Rules > was && !feed.Growth.Allows(was, r.Rules-was):
		return &refusal{reasonGrowth, fmt.Sprintf("it has %d rules, the version in force %d: raise growth for a while if that is meant", r.Rules, was)}
	case was > 0 && r.Rules < was && !feed.Shrink.Allows(was, was-r.Rules):
		return &refusal{reasonShrink, fmt.Sprintf("it has %d rules, the version in force %d: raise shrink for a while if that is meant", r.Rules, was)}
	}
	return nil
}

// markupIn says that there is a page in the list, such as of a server or a cache on
// the way that failed before the end. No list that is in use has such lines.
func markupIn(r *parse.Report) string {
	at := ""
	for _, e := range r.Examples {
		if e.Reason == parse.SkipHTML {
			at = fmt.Sprintf(", the first in line %d", e.Line)
			break
		}
	}
	return fmt.Sprintf("%d lines are markup%s: a web page is in it, perhaps an error message", r.Skips[parse.SkipHTML], at)
}
