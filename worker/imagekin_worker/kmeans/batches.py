"""The mini-batches of k-means, for rows beyond a memory budget.

They are nested (Newling and Fleuret, "Nested Mini-Batch K-Means", 2016): a random batch is iterated until it settles,
then doubled, its earlier rows kept; the best start ends with `FULL_PASSES` over all rows. Fresh batches (Sculley 2010)
move the centers by shrinking steps; nested ones end at the means of their rows, so that little is lost: docs/scaling.md
has the figures.
"""

from __future__ import annotations

# The first batch, and the largest, which more rows would hardly better.
FIRST_ROWS, FIRST_ROWS_PER_CLUSTER = 4096, 16
MOST_ROWS_PER_CLUSTER = 256
# The first of them takes away most of what the means of a batch are off.
FULL_PASSES = 2


def largest(n: int, dim: int, n_clusters: int, memory_budget_bytes: int | None) -> int | None:
    """Return the rows of the largest batch, or None if all `n` fit into the budget.

    A batch may take half of the budget, since the computation needs memory, too. It never has fewer rows than clusters.
    """
    if memory_budget_bytes is None or 4 * n * dim <= memory_budget_bytes:
        return None
    wanted = max(FIRST_ROWS, MOST_ROWS_PER_CLUSTER * n_clusters)
    return min(n, max(n_clusters, min(wanted, memory_budget_bytes // (8 * dim))))


def sizes(largest_rows: int, n_clusters: int) -> list[int]:
    """Return the number of rows of each batch, ascending."""
    found = [min(largest_rows, max(FIRST_ROWS, FIRST_ROWS_PER_CLUSTER * n_clusters))]
    while found[-1] < largest_rows:
        found.append(min(2 * found[-1], largest_rows))
    return found
