// Package bans is the built-in ban bundles as data, compiled into the program
// so that it never needs a disk or a network to know them.
//
// A bundle is a folder with a ban.yml (what is banned, by whose authority, and
// with which lists), the lists it names, and a vectors.txt of must-block and
// must-allow targets that every load checks. Beside the bundles stands
// protected.txt, the names that no ban and no imported list may hold back.
//
// The package says nothing about how these files are read: that is package
// config for ban.yml and package parse for the lists. Nothing here is a
// decision, and nothing changes at run time.
package bans

import "embed"

// FS holds the bundles, each in the folder of its id, and protected.txt. A
// source "embedded:PATH" is a path in it.
//
//go:embed bypass kaspersky tiktok wechat protected.txt
var FS embed.FS
