"""K-means in slices: ours, and the package of the original class."""
