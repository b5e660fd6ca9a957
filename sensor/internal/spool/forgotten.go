package spool

// causeForgotten: acknowledged by a cluster that has it no more, since it was restored from
// a backup or went on without the nodes that had it. It is the most that can be missing:
// what was dropped in between under another cause is counted again.
const causeForgotten = "forgotten"

// forgotten is told that the cluster has less of a stream than it has acknowledged. What
// is still held is handed out again; the rest is gone, and counted once: the position
// goes back with it. The caller holds mu.
func (s *Spool) forgotten(st *stream, position uint64) {
	missing := st.acked - position
	for c := range st.chains {
		for _, seg := range st.chains[c].segments {
			missing -= min(missing, uint64(len(seg.after(position))-len(seg.after(st.acked))))
		}
	}
	s.cfg.Logger.Warn("the coordinators do not have what they had acknowledged: they were restored from a backup, or recovered without some of their nodes",
		"acknowledged", st.acked, "position", position, "records_lost", missing)
	if missing > 0 {
		s.dropped[causeForgotten] += missing
	}
	st.acked = position
	if err := s.writeMeta(false); err != nil {
		s.fail(err)
	}
}
