//go:build !race

package rtos

const raceDetector = false
