"""What is done with a claim, by its kind."""

from __future__ import annotations

from collections.abc import Sequence

from imagekin import errors
from imagekin.enums import ChunkKind
from imagekin.jobs import claim
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.process_state import Node
from imagekin_worker.kinds import assign, cluster, embed, import_, plan, search


def do(node: Node, claims: Sequence[claim.Claim], lease: Lease) -> None:
    """Do claimed chunks, all of one kind and space; raises LeaseLost, and what ends a job."""
    match claims[0].kind:
        case ChunkKind.PLAN:
            plan.run(node, claims[0], lease)
        case ChunkKind.EMBED:
            embed.run(node, claims, lease)
        case ChunkKind.SEARCH:
            search.run(node, claims, lease)
        case ChunkKind.CLUSTER:
            cluster.run(node, claims[0], lease)
        case ChunkKind.ASSIGN:
            assign.run(node, claims[0], lease)
        case ChunkKind.IMPORT:
            import_.run(node, claims[0])
        case kind:
            raise errors.JobError(f"This worker does not know {kind} jobs; upgrade it.")
