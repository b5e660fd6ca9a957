// Package failpoint names the places of the coordinator where a crash matters: on both
// sides of each system call that replaces, cuts or removes what a node has written. A
// program built with the tag "failpoint", which `make torture` runs, can be told to kill
// itself there.
//
// Invariant: without the tag every function here is empty and is compiled away with its
// argument, so that what is released holds no hook, no name and no switch
// (scripts/torture, TestReleaseHasNoFailpoint).
package failpoint
