// Package clusterlab tests clusters of real coordinator processes, on real disks that fill,
// fail and stall: killed leaders, damaged files, hostile sensors, members that change. It has
// nothing but tests, beside those of package lab, which test real sensors: two packages run
// side by side.
package clusterlab
