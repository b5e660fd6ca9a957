// Package store keeps the replicated state of a coordinator node in SQLite.
//
// Its one idea: a raft log entry is one transaction, and that transaction also
// writes the entry's index. The file is therefore always the state after some
// exact index, whatever the moment of a crash, and replaying the log from there
// is neither too little nor too much.
//
// Invariants: there is one writer; rows only change inside [DB.Update]; an index
// is applied once and in order; readers never see half of an entry. Only this
// package contains SQL.
//
// Durability is the log's: an acknowledged entry is fsynced on a quorum before
// it is applied here. So SQLite runs in WAL mode with synchronous=NORMAL: it
// fsyncs at checkpoints only, and after a power cut the file may be an older
// state, but never a torn one (https://sqlite.org/pragma.html#pragma_synchronous:
// WAL with NORMAL is consistent, transactions may roll back). The index rolls
// back with the rows, and raft replays from there, or restores its snapshot when
// the log no longer reaches back that far. FULL would buy one more fsync for each
// entry and no more safety.
package store
