package config

import (
	"io"
	"io/fs"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/weir-gateway/weir/blocklists"
)

// banFile is the description of a built-in ban in its folder.
const banFile = "ban.yml"

// dialects are the words for the formats of lists. What they mean is package
// parse, which stands on the same floor and so is not imported.
var dialects = []string{"domains", "hosts", "abp", "dnsmasq", "rpz", "prefixes", "urls", "signatures"}

var (
	banIDForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)
	banID     = identifier(banIDForm, "small letters, digits and hyphens, 32 at the most, a letter or digit first")
	listName  = identifier(regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`),
		"letters, digits, dots, hyphens and underscores, 64 at the most, a letter or digit first")
)

// reservedLists are the names under which rules of the file itself are cited.
var reservedLists = []string{"allow", "protected", "protected-config"}

// A listAt is a list of a ban and where it is named.
type listAt struct {
	name string
	at   value
}

// banEntry returns a ban of the configuration: a built-in one by its id, a
// built-in one with some keys changed (an object without lists whose id is a
// built-in one's), or a ban of its own (an object with lists).
//
// A ban of its own cannot have the id of a built-in one: what is cited under
// the name of an official ban is the official ban.
func (v value) banEntry() (blocklists.Ban, bool) {
	if v.n.Kind == yaml.SequenceNode {
		v.wrongType("the id of a built-in ban, or a mapping")
		return blocklists.Ban{}, false
	}
	if !isMapping(v.n) {
		id, ok := banID(v)
		if !ok {
			return blocklists.Ban{}, false
		}
		return v.builtInBan(id, v)
	}
	id, hasID := "", false
	at, there := v.child("id")
	if there {
		id, hasID = at.bareID()
	}
	_, lists := v.child("lists")
	switch {
	case hasID && v.d.isBuiltIn(id) && lists:
		at.fail("%s is a built-in ban; leave lists out to change it, or give your own ban another id", quote(id))
		return blocklists.Ban{ID: id}, true
	case hasID && v.d.isBuiltIn(id):
		ban, ok := v.builtInBan(id, at)
		v.object(banFields(&ban))
		v.checkTiers(&ban)
		return ban, ok
	case hasID && !lists && len(v.n.Content) == 2:
		return v.builtInBan(id, at) // which says that there is no such ban
	}
	return v.fullBan()
}

// bareID returns the id without reporting what is wrong with it.
func (v value) bareID() (string, bool) {
	id := strings.TrimSpace(v.n.Value)
	return id, v.n.Kind == yaml.ScalarNode && banIDForm.MatchString(id)
}

func (v value) fullBan() (blocklists.Ban, bool) {
	ban := blocklists.Ban{EDE: 15, Tiers: []blocklists.Tier{blocklists.TierExclusive}}
	fs := banFields(&ban)
	fs["lists"] = func(v value) {
		lists, ok := listOf(value.list)(v)
		if ok && len(lists) == 0 {
			v.fail("there are no lists; a ban needs one at the least")
		}
		ban.Lists = lists
	}
	v.object(fs, "id", "title", "authority", "reference", "lists")
	v.checkTiers(&ban)
	return ban, true
}

// checkTiers reports a ban that would hold back nothing, because no list of it
// is of a tier that is on. To have no ban is to leave it out.
func (v value) checkTiers(b *blocklists.Ban) {
	on := func(l blocklists.List) bool { return l.Tier == "" || b.Enabled(l.Tier) }
	if len(b.Lists) == 0 || slices.ContainsFunc(b.Lists, on) {
		return
	}
	at, given := v.child("tiers")
	if !given {
		at = v
	}
	if at.n.Kind != reported {
		at.fail("no list of the ban is of a tier that is on, so it would hold back nothing; switch a tier on, or leave the ban out")
	}
}

// banFields are the keys of a ban, but for its lists.
func banFields(b *blocklists.Ban) fields {
	return fields{
		"id":            set(&b.ID, banID),
		"title":         set(&b.Title, value.bilingual),
		"jurisdiction":  set(&b.Jurisdiction, value.text),
		"authority":     set(&b.Authority, value.bilingual),
		"reference":     set(&b.Reference, value.reference),
		"instrument":    set(&b.Instrument, value.bilingual),
		"citation":      set(&b.Citation, value.text),
		"office":        set(&b.Office, value.official),
		"decided_by":    set(&b.Decider, value.official),
		"announced_by":  set(&b.Announcer, value.official),
		"reason":        set(&b.Reason, value.bilingual),
		"strength":      set(&b.Strength, word(blocklists.Ordered, blocklists.Recommended)),
		"implementer":   set(&b.Implementer, word("enterprise", "department")),
		"announced":     set(&b.Announced, value.begin),
		"effective":     set(&b.Effective, value.begin),
		"review":        set(&b.Review, value.begin),
		"deadlines":     set(&b.Deadlines, listOf(value.deadline)),
		"superseded_by": set(&b.SupersededBy, banID),
		"devices":       set(&b.Devices, words("issued-mobile", "enrolled-personal", "other-it", "contractor-it")),
		"coverage": set(&b.Coverage, word(blocklists.CoverApp, blocklists.CoverAppWeb,
			blocklists.CoverAppWebDownloads, blocklists.CoverVendor)),
		"max_exemption": set(&b.MaxExemption, value.term),
		"successors":    set(&b.Successors, value.boolean),
		"embedded_code": set(&b.EmbeddedCode, value.boolean),
		"contact":       set(&b.Contact, value.bilingual),
		"answer":        set(&b.Answer, value.answer),
		"ede":           set(&b.EDE, value.ede),
		"tiers":         set(&b.Tiers, words(blocklists.TierExclusive, blocklists.TierVendor)),
		"vectors":       set(&b.Vectors, value.source),
	}
}

// words returns the decoder of a list of such words, each once.
func words[T ~string](known ...T) func(value) ([]T, bool) {
	return func(v value) ([]T, bool) {
		list, ok := listOf(word(known...))(v)
		if ok {
			v.unique(len(list), func(i int) any { return string(list[i]) })
		}
		return list, ok
	}
}

func (v value) official() (blocklists.Official, bool) {
	var o blocklists.Official
	ok := v.object(fields{"office": set(&o.Office, value.bilingual), "holder": set(&o.Holder, value.text)}, "office")
	return o, ok
}

func (v value) deadline() (blocklists.Deadline, bool) {
	var d blocklists.Deadline
	ok := v.object(fields{"what": set(&d.What, value.bilingual), "when": set(&d.When, value.begin)}, "what", "when")
	return d, ok
}

// ede returns the extended DNS error that blocked answers carry: Blocked,
// Censored or Filtered (RFC 8914, sections 4.16 to 4.18), or none.
func (v value) ede() (uint16, bool) {
	if v.n.Kind == yaml.ScalarNode && v.n.Value == "none" {
		return 0, true
	}
	if v.n.Kind != yaml.ScalarNode || v.n.Tag != "!!int" {
		v.wrongType("15, 16, 17 or none")
		return 0, false
	}
	switch v.n.Value {
	case "15":
		return 15, true
	case "16":
		return 16, true
	case "17":
		return 17, true
	}
	v.fail("want 15, 16, 17 or none, got %s", clip(v.n.Value))
	return 0, false
}

var schemeForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:\S`)

// reference returns where an instrument can be read. A URL must be one that a
// page may link to: people follow it from the page that says why.
func (v value) reference() (string, bool) {
	s, ok := v.text()
	if !ok || !schemeForm.MatchString(s) {
		return s, ok
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil {
		v.fail("%s is not a link that can be followed; want https://…, or a text without a scheme", quote(s))
		return "", false
	}
	return s, true
}

func (v value) list() (blocklists.List, bool) {
	l := blocklists.List{Tier: blocklists.TierExclusive}
	feed := defaultFeed()
	keys := feedFields(&feed)
	maps.Copy(keys, fields{
		"name":   set(&l.Name, listName),
		"source": set(&l.Source, value.listSource),
		"format": set(&l.Format, word(dialects...)),
		"tier":   set(&l.Tier, word(blocklists.TierExclusive, blocklists.TierVendor)),
		"embeds": set(&l.Embeds, value.boolean),
		"signal": set(&l.Signal, word(blocklists.SignalApp)),
		"answer": set(&l.Answer, value.answer),
	})
	ok := v.object(keys, "name", "source", "format")
	l.Feed = v.feed(l.Source, feed)
	v.checkZoneList(&l)
	if at, named := v.child("name"); named && l.Name != "" {
		v.d.lists = append(v.d.lists, listAt{l.Name, at})
	}
	return l, ok
}

// source returns where the bytes of a list are: embedded:PATH in the built-in
// bans, or file:PATH. Whether a file is there is seen when it is read.
func (v value) source() (string, bool) {
	s, ok := v.text()
	if !ok {
		return "", false
	}
	kind, where, _ := strings.Cut(s, ":")
	switch kind {
	case "embedded":
		return s, v.embedded(where)
	case "file":
		if v.d.bundle != "" {
			v.fail("a built-in ban has embedded: sources only")
			return "", false
		}
		if where == "" || strings.HasSuffix(where, "/") {
			v.fail("there is no file after file:")
			return "", false
		}
		abs, ok := v.absolute(where)
		src := "file:" + abs
		if ok {
			v.d.place(src, v)
		}
		return src, ok
	case "http", "https":
		v.fail("only a list can be fetched; this must be file:PATH or embedded:PATH")
	case "rpz":
		v.fail("%s: sources are not supported yet, use file:", kind)
	default:
		v.fail("unknown source %s; want file:PATH, embedded:PATH or, for a list, https://…", quote(s))
	}
	return "", false
}

func (v value) embedded(name string) bool {
	if v.d.bundles != nil && fs.ValidPath(name) {
		if info, err := fs.Stat(v.d.bundles, name); err == nil && !info.IsDir() {
			return true
		}
	}
	v.fail("nothing is built in under %s", quote(name))
	return false
}

// isBuiltIn reports whether a built-in ban has that id.
func (d *decoder) isBuiltIn(id string) bool {
	if d.bundles == nil {
		return false
	}
	_, err := fs.Stat(d.bundles, path.Join(id, banFile))
	return err == nil
}

// builtInBan returns the built-in ban. What is wrong with the id is reported at
// the value that names it, what is wrong with the ban in its own file.
func (v value) builtInBan(id string, at value) (blocklists.Ban, bool) {
	placeholder := blocklists.Ban{ID: id}
	if !v.d.isBuiltIn(id) {
		at.fail("there is no built-in ban %s%s", quote(id), suggest(id, v.d.builtInIDs(), "there are "))
		return placeholder, true
	}
	if ban, done := v.d.builtIn[id]; done {
		return ban, true
	}
	name := path.Join(id, banFile)
	data, err := readBounded(v.d.bundles, name)
	if err != nil {
		at.fail("the built-in ban %s cannot be read: %v", quote(id), err)
		return placeholder, true
	}
	d := &decoder{run: v.d.run, file: "built-in/" + name, bundle: id}
	d.root = d.parse(data)
	ban, _ := d.top().fullBan()
	if ban.ID != id && ban.ID != "" {
		idAt, _ := d.at("id")
		idAt.fail("the id is %s, and the folder is %s", quote(ban.ID), quote(id))
	}
	ban.ID = id
	if v.d.builtIn == nil {
		v.d.builtIn = make(map[string]blocklists.Ban)
	}
	v.d.builtIn[id] = ban
	return ban, true
}

func readBounded(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

func (d *decoder) builtInIDs() []string {
	if d.bundles == nil {
		return nil
	}
	names, err := fs.Glob(d.bundles, "*/"+banFile)
	if err != nil {
		return nil // only a bad pattern is an error
	}
	for i, n := range names {
		names[i] = path.Dir(n)
	}
	return names
}

// checkBans reports bans and lists that are there twice.
func (d *decoder) checkBans(c *Config) {
	if at, given := d.at("bans"); given {
		at.unique(len(c.Bans), func(i int) any { return c.Bans[i].ID })
	}
	if len(d.lists) > blocklists.MaxLists-len(reservedLists) {
		at, _ := d.at("bans")
		at.fail("the bans have %d lists, and there is room for %d", len(d.lists), blocklists.MaxLists-len(reservedLists))
	}
	// The built-in lists first, so that a name that is theirs is reported where
	// the operator took it.
	slices.SortStableFunc(d.lists, func(a, b listAt) int { return btoi(a.at.d == d) - btoi(b.at.d == d) })
	seen := make(map[string]value, len(d.lists))
	for _, l := range d.lists {
		if slices.Contains(reservedLists, l.name) {
			l.at.fail("the name %s is that of the rules of this file; choose another", quote(l.name))
			continue
		}
		if first, dup := seen[l.name]; dup {
			// The same ban twice is reported once, as a ban.
			if first.d.bundle == "" || first.d.bundle != l.at.d.bundle {
				l.at.fail("there is a list %s already, at %s:%d", quote(l.name), first.d.file, first.n.Line)
			}
			continue
		}
		seen[l.name] = l.at
	}
}
