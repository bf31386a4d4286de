// Package stages says where the CPU of a delivery goes: it reads a CPU profile
// of the engine, or of the forwarder beside it, and gives every sample of it to
// exactly one stage of a delivery's way.
//
// [Read] a profile, and make a [Column] of it with the CPU that a delivery
// costs. That number is measured elsewhere, without a profiler: a profile only
// says how it is shared out, and the stages of a column sum up to it. [WriteText]
// sets columns side by side.
//
// # Which stage a sample belongs to
//
// The table in rules.go is asked for each function on the sample's stack, the
// innermost first, until one is in it. Most functions are not: what a checksum,
// the copying of bytes, an allocation or a system call costs, is paid by the
// stage that asked for it. So are the wake-ups of others, which make up most of
// the Go scheduler's part in a stage; [Runtime] has only what nobody in
// particular asked for. What no rule places is [Other], and must stay small:
// [Breakdown.Strangers] names it.
//
// # The kernel's share
//
// A sample whose innermost function makes a system call was taken in the kernel:
// Go's profiler does not see further. So the kernel's share holds the work that
// the kernel does for others in our time, as delivering a packet to a peer on the
// same machine; and it lacks what happens in the kernel outside calls, as page
// faults.
//
// # Bounds
//
// A profile is at most [MaxBytes] long, packed and unpacked. The package starts
// no goroutines and keeps nothing.
package stages
