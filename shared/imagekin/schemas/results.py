"""What the result of each kind of job is."""

from __future__ import annotations

from imagekin.schemas.answers import (
    AdaptResult,
    AssignResult,
    ClassifyResult,
    ClusterResult,
    DuplicatesResult,
    EmbedResult,
    IndexResult,
    MapResult,
    OutliersResult,
    SearchResult,
    SelectResult,
    SplitResult,
    Wire,
)
from imagekin.schemas.kinds import JobKind

RESULTS: dict[JobKind, type[Wire]] = {
    JobKind.EMBED: EmbedResult,
    JobKind.IMPORT: EmbedResult,
    JobKind.SEARCH: SearchResult,
    JobKind.CLUSTER: ClusterResult,
    JobKind.ASSIGN: AssignResult,
    JobKind.SELECT: SelectResult,
    JobKind.MAP: MapResult,
    JobKind.CLASSIFY: ClassifyResult,
    JobKind.DUPLICATES: DuplicatesResult,
    JobKind.OUTLIERS: OutliersResult,
    JobKind.ADAPT: AdaptResult,
    JobKind.SPLIT: SplitResult,
    JobKind.INDEX: IndexResult,
}
