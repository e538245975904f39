// Package nearest suggests what somebody may have meant who wrote a word that is not known.
package nearest

import "fmt"

// enough is how many letters may differ.
const enough = 3

// maxLonger is how much longer a word may be to be compared at all: the comparison takes the product of both lengths.
const maxLonger = 8

// Hint is the end of a complaint about word: "; did you mean ...?" with the one of words that differs least from it, in three letters at most. It is
// empty when none is near.
func Hint(word string, words []string) string {
	best, least := "", enough+1
	for _, w := range words {
		if max(len(word), len(w)) > min(len(word), len(w))+maxLonger {
			continue
		}
		if d := distance(word, w); d < least && d < len(w) {
			best, least = w, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// distance is how many letters must change (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
