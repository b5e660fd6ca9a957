package client

// SetStep has a test look at each step, and end it there.
func SetStep(t *TakeOffline, step func(string) error) { t.step = step }
