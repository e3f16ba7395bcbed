"""One run, seen from one task: how it is started, waited for and handed over."""
