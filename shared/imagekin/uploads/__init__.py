"""Uploads: their rows, their files, and what kind of file they are."""
