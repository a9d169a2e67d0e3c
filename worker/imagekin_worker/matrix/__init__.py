"""Exact search: a collection's vectors in memory or in a mapped file, scanned in blocks."""
