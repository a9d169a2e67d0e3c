"""What is done with a claim, by its kind."""

from __future__ import annotations

from collections.abc import Sequence

from imagekin import errors, jobs
from imagekin.types import ChunkKind
from imagekin_worker import assigner, clusterer, embedder, importer, planner, searcher
from imagekin_worker.leases import Lease
from imagekin_worker.node import Node


def do(node: Node, claims: Sequence[jobs.Claim], lease: Lease) -> None:
    """Do claimed chunks, all of one kind and space; raises LeaseLost, and what ends a job."""
    match claims[0].kind:
        case ChunkKind.PLAN:
            planner.run(node, claims[0], lease)
        case ChunkKind.EMBED:
            embedder.run(node, claims, lease)
        case ChunkKind.SEARCH:
            searcher.run(node, claims, lease)
        case ChunkKind.CLUSTER:
            clusterer.run(node, claims[0], lease)
        case ChunkKind.ASSIGN:
            assigner.run(node, claims[0], lease)
        case ChunkKind.IMPORT:
            importer.run(node, claims[0])
        case kind:
            raise errors.JobError(f"This worker does not know {kind} jobs; upgrade it.")
