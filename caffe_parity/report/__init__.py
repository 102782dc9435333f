"""`parity diff`: what an edit changed, from the reports of a run before it and one after it."""
