module github.com/weir-gateway/weir

go 1.26.0

require (
	github.com/gaissmai/bart v0.30.0
	github.com/hashicorp/golang-lru/v2 v2.0.7
	golang.org/x/net v0.62.0
)

require golang.org/x/text v0.43.0 // indirect
