package sensor

import (
	"bytes"
	"os"
	"strconv"
	"strings"

	"github.com/vedette-edr/vedette/sensor/internal/kernel"
)

// initialPIDNamespace is PROC_PID_INIT_INO of the kernel's include/linux/proc_ns.h.
const initialPIDNamespace = "pid:[4026531836]"

// ticksPerSecond is USER_HZ, the unit of times in /proc/PID/stat.
const ticksPerSecond = 100

// foreignPIDs tells whether the kernel calls this process by another number than
// getpid(2), because the sensor runs in a container's own PID namespace.
func foreignPIDs() bool {
	namespace, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && namespace != initialPIDNamespace
}

// kernelPID is this process among what runs, by name and start; 0 when it is not
// there or not the only one.
func kernelPID(running []kernel.Task) uint32 {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0
	}
	name, start, ok := nameAndStart(stat)
	if !ok {
		return 0
	}
	var found uint32
	for _, task := range running {
		if task.Comm != name || task.Key.Start/(1e9/ticksPerSecond) != start {
			continue
		}
		if found != 0 {
			return 0
		}
		found = task.Key.PID
	}
	return found
}

// nameAndStart reads a line of /proc/PID/stat. The name may hold anything, so it
// ends at the last parenthesis.
func nameAndStart(stat []byte) (name string, start uint64, ok bool) {
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return "", 0, false
	}
	const startField = 19 // starttime is field 22; those after the name begin with 3
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) <= startField {
		return "", 0, false
	}
	start, err := strconv.ParseUint(fields[startField], 10, 64)
	return string(stat[open+1 : end]), start, err == nil
}
