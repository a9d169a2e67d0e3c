"""The exact nearest rows of each row: products in blocks that keep the best of each row, never n x n."""

from __future__ import annotations

import numpy as np
import torch

from imagekin_worker.analysis.stepper import ViewedRows

# Rows of a product on either side; its scores take 8 MB. Fewer queries make each pass over all rows dearer.
QUERY_ROWS, ROWS = 256, 8192


def nearest(rows: ViewedRows, queries: torch.Tensor, count: int, own: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Return the indices (q, count) int32 and cosines (q, count) float32 of the rows nearest to `queries` (q, dim).

    Best first. `own` (q,): the queries' own rows, which are left out.
    """
    best = torch.full((len(queries), count), -2.0)
    places = torch.zeros((len(queries), count), dtype=torch.int64)
    for span in rows.spans(ROWS):
        scores = queries @ rows.tensor(span).T
        if own is not None:
            inside = np.flatnonzero((own >= span.start) & (own < span.stop))
            scores[inside, own[inside] - span.start] = -2
        found, at = scores.topk(min(count, scores.shape[1]), dim=1)
        best, kept = torch.cat([best, found], 1).topk(count, dim=1)
        places = torch.cat([places, at + span.start], 1).gather(1, kept)
        rows.release()
    return places.numpy().astype(np.int32), best.clamp_(max=1).numpy()
