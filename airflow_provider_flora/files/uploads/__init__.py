"""Uploads of files as Flora assets, for inputs of runs."""
