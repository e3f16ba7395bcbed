"""Files on their way into Flora and out of it."""
