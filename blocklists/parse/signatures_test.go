package parse

import "testing"

func TestSignatures(t *testing.T) {
	testReadings(t, Signatures, []reading{
		{name: "every kind", text: "# what it is\nbytes 1[679]  F1 0[34]   # a comment\nfield Upgrade = mmtls\n\nfield user-agent ~ Micro Messenger\nfield x ^ abc\npath ^/mmtls/[0-9a-f]{8}$\n",
			rules: []string{"2 bytes 1[679] f1 0[34]", "3 field upgrade = mmtls", "5 field user-agent ~ Micro Messenger", "6 field x ^ abc", "7 path ^/mmtls/[0-9a-f]{8}$"}},
		{name: "what is none", text: "16 f1 04\nBYTES 16 f1 04\nname.example\nbytes\n",
			skips: []string{"1:1 syntax", "2:1 syntax", "3:1 syntax", "4:6 url-pattern"}},
		{name: "patterns that say nothing", text: "bytes 16 f1\nfield upgrade mmtls\nfield upgrade = a\npath /A\n  path (\n",
			skips: []string{"1:7 url-pattern", "2:7 url-pattern", "3:7 url-pattern", "4:6 url-pattern", "5:8 url-pattern"}},
		{name: "patterns that take everything", text: "bytes 16 03 01\npath .\nbytes 47 45 54 20\n",
			skips: []string{"1:7 everything", "2:6 everything", "3:7 everything"}},
	})
}

func TestDetectSignatures(t *testing.T) {
	f, err := Detect([]byte("# notes\nbytes 16 f1 04\nfield upgrade = mmtls\npath ^/mmtls/\n"))
	if f != Signatures || err != nil {
		t.Errorf("%s, %v", f, err)
	}
}

func FuzzSignatures(f *testing.F) {
	fuzzDialect(f, Signatures, "bytes 1[679] f1 0[34]\nfield upgrade = mmtls\nfield a ~ bcd\npath ^/x/[0-9]{3}\nbytes 16 03\npath (\n")
}
