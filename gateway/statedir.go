package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/durable"
)

// A stateDir is the folder of what outlives the process. It belongs to one
// gateway as long as it runs. Nil is none: all that would lie there is kept in
// memory.
type stateDir struct {
	path string
	lock *os.File
}

// stateFolder is where the folder is, and whether the configuration says so.
func stateFolder(cfg *config.Config) (path string, explicit bool, err error) {
	if cfg.State != "" {
		return cfg.State, true, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", false, err
	}
	return filepath.Join(cache, "weir"), false, nil
}

// openState makes the folder and takes it. A folder that the configuration names
// must be there for this gateway alone; without the default one it runs in
// memory, as a second gateway of one user does.
func openState(cfg *config.Config, log *slog.Logger) (*stateDir, error) {
	path, explicit, err := stateFolder(cfg)
	if err == nil {
		var s *stateDir
		if s, err = takeState(path); err == nil {
			return s, nil
		}
	}
	if explicit {
		return nil, fmt.Errorf("state: %w", err)
	}
	log.Warn("no folder for the state: what changes is kept in memory only; state: names another folder", "error", err)
	return nil, nil
}

func takeState(path string) (*stateDir, error) {
	if err := durable.Folder(path); err != nil {
		return nil, err
	}
	lock, err := durable.Lock(filepath.Join(path, "lock"))
	if errors.Is(err, durable.ErrLocked) {
		return nil, fmt.Errorf("folder %s is in use by another gateway; give each a folder of its own", path)
	}
	if err != nil {
		return nil, err
	}
	return &stateDir{path: path, lock: lock}, nil
}

// socketFile is the admin API's socket in the folder, and maxSocketPath what fits
// into a socket's address on every system (unix(7); the BSDs have 104 bytes).
const (
	socketFile    = "admin.sock"
	maxSocketPath = 103
)

// SocketPath returns where the admin API's socket of a gateway with that
// configuration is.
func SocketPath(cfg *config.Config) (string, error) {
	path, _, err := stateFolder(cfg)
	if err != nil {
		return "", fmt.Errorf("state: %w", err)
	}
	return filepath.Join(path, socketFile), nil
}

// socket returns the path of the admin API's socket, empty for none.
func (s *stateDir) socket(log *slog.Logger) string {
	if s == nil {
		return ""
	}
	path := filepath.Join(s.path, socketFile)
	if len(path) > maxSocketPath {
		log.Warn("no socket for the admin API: the path of the state folder is too long for one; name a shorter one in state", "path", path, "longest", maxSocketPath)
		return ""
	}
	return path
}

// folder makes a folder in it and returns its path.
func (s *stateDir) folder(name string) (string, error) {
	path := filepath.Join(s.path, name)
	return path, durable.Folder(path)
}

// close gives the folder to the next gateway.
func (s *stateDir) close() {
	if s != nil {
		_ = s.lock.Close()
	}
}
