// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What a process may do: kept with it, so that a change shows.

INLINE u64 copy_of_caps(const kernel_cap_t *set)
{
	u64 caps = 0; /* read whole: before 6.3 it is two words */

	bpf_probe_read_kernel(&caps, sizeof(caps), set);
	return caps;
}

#define CAPABILITIES(set)                                                                \
	(HAS_FIELD((set).val) ? (set).val : copy_of_caps(__builtin_preserve_access_index(&(set))))

/* Whether the kernel would let these credentials gain more without an exec. */
INLINE bool could_gain(struct cred *cred)
{
	return !cred->uid.val || !cred->euid.val || !cred->suid.val ||
	       CAPABILITIES(cred->cap_permitted);
}

/* Keeps what a process's later credentials are compared with. Its threads may differ
 * from each other: what one of them could do stands until it is alone or executes. */
INLINE void note_credentials(struct process *p, struct task_struct *task)
{
	struct cred *cred = task->cred;

	p->uid = cred->euid.val;
	p->real_uid = cred->uid.val;
	p->gid = cred->egid.val;
	p->caps = CAPABILITIES(cred->cap_effective);
	p->user_ns = cred->user_ns->ns.inum;
	if (could_gain(cred))
		set_flags(p, PROCESS_COULD_GAIN);
	else if (task->signal->live.counter <= 1)
		clear_flags(p, PROCESS_COULD_GAIN);
}
