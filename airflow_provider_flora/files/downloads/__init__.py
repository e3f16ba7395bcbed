"""Downloads of a run's outputs into a storage."""
