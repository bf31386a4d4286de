// Command signs checks the house rules that vet and staticcheck do not know:
//
//   - every package has a doc comment, directly above its package clause: a blank
//     line between the two and it is no doc comment any more;
//   - no comment marks unfinished work;
//   - no test waits by time.Sleep, unless its file uses testing/synctest, where
//     sleeping is stepping the clock.
//
// Usage: signs DIR. It reads every Go file below DIR, but not testdata, vendor,
// hidden directories or other modules, prints what it finds as FILE:LINE: TEXT
// and exits 1 if there is anything.
package main
