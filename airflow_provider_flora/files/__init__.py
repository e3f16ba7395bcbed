"""Uploads to Flora and downloads of outputs."""
