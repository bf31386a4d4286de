//go:build !race

package tcp

const ordinary = false
