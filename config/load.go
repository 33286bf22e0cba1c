package config

import (
	"bytes"
	_ "embed"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/weir-gateway/weir/blocklists"
)

// maxFile bounds the size of a configuration file.
const maxFile = 4 << 20

//go:embed default.yml
var defaultText string

// defaultFile names the built-in default in errors.
const defaultFile = "default.yml"

// Default returns the built-in default: what default.yml says, with the bans
// that bundles holds. An error means that bundles does not fit.
func Default(bundles fs.FS) (*Config, error) {
	return Parse("", nil, bundles)
}

// Load reads a configuration file and calls Parse, or Default if file is empty. The
// error is an Errors, unless the file could not be read.
func Load(file string, bundles fs.FS) (*Config, error) {
	l := Loader{File: file, Bundles: bundles}
	return l.Load()
}

// A Loader loads one file again and again. It must not be copied, and serves one
// goroutine at a time.
type Loader struct {
	File    string
	Bundles fs.FS

	text []byte  // that was read last
	last *Config // what it says
}

// Load is the function Load for the file. As long as that says the same, letter by
// letter, it is the same Config: to parse it takes longer than a small edit of a
// long list.
func (l *Loader) Load() (*Config, error) {
	if l.File == "" {
		return Default(l.Bundles)
	}
	data, err := read(l.File)
	if err != nil {
		return nil, err
	}
	if l.last != nil && bytes.Equal(data, l.text) {
		return l.last, nil
	}
	c, err := Parse(l.File, data, l.Bundles)
	if err != nil {
		return nil, err
	}
	l.text, l.last = data, c
	return c, nil
}

func read(file string) ([]byte, error) {
	// Opening a FIFO waits for a writer, and a reload must not wait.
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer func() { _ = f.Close() }()
	// What can be read only once would be another configuration on reload.
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, fmt.Errorf("configuration: %s is not a regular file", file)
	}
	// One byte more than the bound shows that there is more.
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	// More likely a full disk than a wish for the built-in default.
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, Errors{{File: file, Line: 1, Column: 1, Key: wholeFile,
			Msg: "the file is empty; {} is a configuration that leaves everything at its default"}}
	}
	return data, nil
}

// Parse decodes and validates a configuration. What it does not say has the
// value of the built-in default; an explicit empty list means none. Relative
// paths are relative to the folder of file, which is only a name here. The
// built-in bans are the folders of bundles, each described by its ban.yml.
//
// The error is an Errors with everything that is wrong.
func Parse(file string, data []byte, bundles fs.FS) (*Config, error) {
	name := file
	if name == "" {
		name = defaultFile
	}
	dir, err := filepath.Abs(filepath.Dir(name))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	run := &run{bundles: bundles}
	user := &decoder{run: run, file: name, dir: dir}
	user.root = user.parse(data)
	builtIn := &decoder{run: run, file: defaultFile, dir: dir}
	builtIn.root = builtIn.parse([]byte(defaultText))

	c := new(Config)
	// A default that the file replaces is not even decoded, so that a built-in
	// ban that is not used cannot be in the way.
	builtIn.config(c, func(key string) bool { _, given := user.at(key); return given && key == "bans" })
	user.config(c, nil)
	user.follow(c)
	c.File, c.sources = file, run.sources
	user.check(c)
	if err := run.errs.result(name); err != nil {
		return nil, err
	}
	return c, nil
}

// A run is what the decoders of one Parse share: the configuration file's, the
// built-in default's, and one for each built-in ban that is used.
type run struct {
	bundles  fs.FS
	errs     collector
	lists    []listAt                  // lists of all bans
	keys     []listAt                  // keys that lists name
	canaries []listAt                  // groups that lists name
	sources  map[string]place          // of the files that the bans name
	builtIn  map[string]blocklists.Ban // those decoded already, by id
}

// config decodes the whole file on top of c, but for the keys to skip.
func (d *decoder) config(c *Config, skip func(key string) bool) {
	fs := fields{
		"dns":           func(v value) { v.dns(&c.DNS) },
		"proxy":         func(v value) { v.proxy(&c.Proxy) },
		"transparent":   func(v value) { v.transparent(&c.Transparent) },
		"quic":          func(v value) { v.quic(&c.QUIC) },
		"vpn":           func(v value) { v.vpn(&c.VPN) },
		"rpz":           func(v value) { v.rpz(&c.RPZ) },
		"bans":          set(&c.Bans, listOf(value.banEntry)),
		"allow":         set(&c.Allow, listOf(value.allowRule)),
		"protected":     set(&c.Protected, listOf(value.protectedRule)),
		"groups":        set(&c.Groups, listOf(value.group)),
		"max_exemption": set(&c.MaxExemption, value.term),
		"exemptions":    set(&c.Exemptions, listOf(value.exemption)),
		"audit":         func(v value) { v.audit(&c.Audit) },
		"admin":         func(v value) { v.admin(&c.Admin) },
		"log": func(v value) {
			v.object(fields{
				"format": set(&c.Log.Format, word("text", "json")),
				"level":  set(&c.Log.Level, word("debug", "info", "warn", "error")),
			})
		},
		"state": set(&c.State, value.path),
	}
	if skip != nil {
		for key := range fs {
			if skip(key) {
				fs[key] = func(value) {}
			}
		}
	}
	d.top().object(fs)
}

// follow sets the defaults that follow from other keys.
func (d *decoder) follow(c *Config) {
	// Where QUIC passes, a client may know of it.
	if _, given := d.at("dns", "h3"); !given && c.QUIC.Mode != QUICRefuse {
		c.DNS.H3 = Keep
	}
}

// check validates what needs more than one place of the file to be seen.
func (d *decoder) check(c *Config) {
	d.checkListeners(c)
	d.checkEncrypted(&c.DNS)
	d.checkUpstreams(&c.DNS)
	d.checkLimits(&c.DNS.Limits)
	d.checkAudit(&c.Audit)
	d.checkVPN(c)
	d.checkAdmin(c)
	d.checkRPZ(c)
	d.checkZoneKeys(c)
	d.checkBans(c)
	d.checkRules("allow", c.Allow)
	d.checkRules("protected", c.Protected)
	bans := d.knownNames("bans", len(c.Bans), func(i int) string { return c.Bans[i].ID })
	d.checkGroups(c, bans)
	d.checkExemptions(c, bans)
	d.checkCanaries(c)
}
