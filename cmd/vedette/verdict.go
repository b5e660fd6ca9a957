package main

import (
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// verdict turns the hosts' results into the command's.
func (o *order) verdict(operation string, results []result, late bool) error {
	count := map[string]int{}
	for _, r := range results {
		count[r.Result]++
	}
	done := "applied"
	if count["previewed"] > 0 {
		done = "previewed"
	}
	bad := count["refused"] + count["failed"]
	switch {
	case late && count["pending"] > 0:
		return exit(exitTimeout, "timed out with %d of %s pending; operation %s goes on: vedette isolation watch %s",
			count["pending"], plural(len(results), "host"), operation, operation)
	case o.wait && count["pending"] > 0:
		return exit(exitTimeout, "operation %s has ended with %d of %s pending: look at vedette isolation list --operation %s",
			operation, count["pending"], plural(len(results), "host"), operation)
	case bad == 0:
		return nil
	case bad == len(results):
		return exit(exitError, "%s: none of %s", o.verb, plural(len(results), "host"))
	default:
		return exit(exitPartial, "%s: %d of %s %s, %d pending, %d refused, %d failed",
			o.verb, count["applied"]+count["previewed"], plural(len(results), "host"), done, count["pending"], count["refused"], count["failed"])
	}
}

// outcome is one host's result in the contract's words. An isolation that was
// applied and has ended since was applied.
func outcome(i *operatorv1.Isolation) string {
	switch state := i.GetState(); state {
	case "refused", "failed", "previewed":
		return state
	case "applied", "released":
		return "applied"
	case "expired":
		if i.GetAppliedAt() > 0 {
			return "applied"
		}
		return "failed"
	default:
		return "pending"
	}
}
