"""Analyses of a collection's vectors: views, near-duplicates, outliers, selections, layouts, splits."""
