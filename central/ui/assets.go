package ui

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
)

//go:embed assets templates
var files embed.FS

const assetPath = "/console/assets/"

// assets are the files pages use. Their names hold a hash of their content, so that browsers may
// keep them for good and never show an old one.
type assets struct {
	names map[string]string // "console.css" to its name with the hash
	files map[string]asset  // by that name
}

// kinds are fixed here because the tables of operating systems differ.
var kinds = map[string]string{
	".css": "text/css; charset=utf-8",
	".js":  "text/javascript; charset=utf-8",
	".svg": "image/svg+xml",
}

type asset struct {
	kind string
	data []byte
}

func loadAssets() (assets, error) {
	a := assets{names: make(map[string]string), files: make(map[string]asset)}
	entries, err := fs.ReadDir(files, "assets")
	if err != nil {
		return a, err
	}
	// Style sheets come last: they name pictures.
	for _, last := range []bool{false, true} {
		for _, e := range entries {
			if (path.Ext(e.Name()) == ".css") != last {
				continue
			}
			data, err := files.ReadFile("assets/" + e.Name())
			if err != nil {
				return a, err
			}
			if last {
				for plain, hashed := range a.names {
					data = []byte(strings.ReplaceAll(string(data), "url("+plain+")", "url("+hashed+")"))
				}
			}
			a.add(e.Name(), data)
		}
	}
	return a, nil
}

func (a assets) add(name string, data []byte) {
	sum := sha256.Sum256(data)
	ext := path.Ext(name)
	hashed := strings.TrimSuffix(name, ext) + "." + hex.EncodeToString(sum[:6]) + ext
	a.names[name] = hashed
	a.files[hashed] = asset{kinds[ext], data}
}

// path is where a page finds the named file.
func (a assets) path(name string) (template.URL, error) {
	hashed, ok := a.names[name]
	if !ok {
		return "", fs.ErrNotExist
	}
	return template.URL(assetPath + hashed), nil
}

func (a assets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f, ok := a.files[r.PathValue("name")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("Content-Length", strconv.Itoa(len(f.data)))
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Write(f.data) // a reader that left is no error of ours
}

// loadPages makes one set of templates for each page: the frame, the parts, and the page itself.
func loadPages(a assets) (pages, error) {
	common, err := template.New("").Funcs(template.FuncMap{
		"asset": a.path,
	}).ParseFS(files, "templates/frame.html", "templates/parts.html")
	if err != nil {
		return nil, err
	}
	ps := make(pages)
	entries, err := fs.Glob(files, "templates/page-*.html")
	if err != nil {
		return nil, err
	}
	for _, file := range entries {
		set, err := common.Clone()
		if err != nil {
			return nil, err
		}
		if _, err := set.ParseFS(files, file); err != nil {
			return nil, err
		}
		ps[strings.TrimSuffix(strings.TrimPrefix(path.Base(file), "page-"), ".html")] = set
	}
	return ps, nil
}
