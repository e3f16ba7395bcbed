"""Histories of tasks, drawn from seeds: the real code in a modelled world, on virtual time. See ``history``."""
