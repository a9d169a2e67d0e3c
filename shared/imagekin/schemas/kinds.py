"""The kinds of jobs, and what the service must know of each to queue it, to keep its result and to show it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from imagekin.enums import Lane


class JobKind(StrEnum):
    """A kind of job; its modules are named after it: `routes`, `kinds` (of the worker) and `cli` have one each."""

    EMBED = "embed"
    SEARCH = "search"
    CLUSTER = "cluster"
    ASSIGN = "assign"
    IMPORT = "import"
    SELECT = "select"
    MAP = "map"
    CLASSIFY = "classify"
    DUPLICATES = "duplicates"
    OUTLIERS = "outliers"
    ADAPT = "adapt"
    SPLIT = "split"
    INDEX = "index"

    @property
    def module(self) -> str:
        """The name of its modules: the kind's own, but where that is a word of Python's."""
        return "import_" if self is JobKind.IMPORT else self.value


# The chunk that turns the source of a job that stores images into chunks of the job's own kind.
PLAN: Final = "plan"
CHUNK_KINDS = (PLAN, *JobKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What sets a kind apart.

    `lane`: whose workers do it. `ttl`: the setting that says how long a finished job keeps its result; None: until it
    is deleted. `stores`: it stores images, each of which is an item in the job's ledger. `pins`: it needs the vectors
    of one revision until it ends, so nothing compacts them meanwhile. `rows` and `columns`: under which name the
    result has its rows, and which fields of a row a CSV has; `a.b` is b of the row's object a. `members`: a list in
    the row, of which each element is a line of the CSV, beside what the row itself has.
    """

    lane: Lane = Lane.BULK
    ttl: Literal["embed_ttl_s", "search_ttl_s"] | None = None
    stores: bool = False
    pins: bool = False
    rows: str | None = None
    columns: tuple[str, ...] = ()
    members: str | None = None


TRAITS: dict[JobKind, Traits] = {
    JobKind.EMBED: Traits(ttl="embed_ttl_s", stores=True),
    JobKind.IMPORT: Traits(ttl="embed_ttl_s", stores=True),
    JobKind.SEARCH: Traits(
        lane=Lane.INTERACTIVE,
        ttl="search_ttl_s",
        rows="neighbors",
        columns=("rank", "id", "key", "score", "metadata", "duplicates"),
    ),
    JobKind.CLUSTER: Traits(pins=True, rows="assignments", columns=("id", "key", "label", "distance", "name")),
    JobKind.ASSIGN: Traits(
        lane=Lane.INTERACTIVE,
        ttl="search_ttl_s",
        pins=True,
        rows="assignments",
        columns=("id", "key", "label", "distance", "name"),
    ),
    JobKind.SELECT: Traits(pins=True, rows="rows", columns=("rank", "id", "key", "distance")),
    JobKind.MAP: Traits(pins=True, rows="rows", columns=("id", "key", "x", "y")),
    JobKind.CLASSIFY: Traits(pins=True, rows="rows", columns=("id", "key", "label", "probability")),
    JobKind.DUPLICATES: Traits(
        pins=True,
        rows="groups",
        columns=(
            "group",
            "size",
            "id",
            "key",
            "score",
            "reason",
            "hash_bits",
            "correlation",
            "width",
            "height",
            "keep.id",
            "keep.key",
            "keep.because",
        ),
        members="members",
    ),
    JobKind.OUTLIERS: Traits(
        pins=True,
        rows="rows",
        columns=("rank", "id", "key", "score", "percentile", "nearest.id", "nearest.key"),
    ),
    JobKind.ADAPT: Traits(pins=True),
    JobKind.INDEX: Traits(pins=True),
    JobKind.SPLIT: Traits(pins=True, rows="rows", columns=("id", "key", "share", "group")),
}

STORING = frozenset(kind for kind, traits in TRAITS.items() if traits.stores)
PINNING = frozenset(kind for kind, traits in TRAITS.items() if traits.pins)
