"""The run of a task: starting it, waiting for it, returning its result."""
