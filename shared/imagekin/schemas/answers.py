"""What the service sends. Times are RFC 3339 in UTC.

Long because it is a list: one model for each answer, nothing but fields.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from imagekin.enums import (
    Algorithm,
    Colors,
    DType,
    DuplicateReason,
    Fit,
    IndexMethod,
    IndexStatus,
    ItemStatus,
    JobStatus,
    Library,
    Metric,
    Precision,
    SelectMethod,
    VerdictWord,
)
from imagekin.schemas.kinds import JobKind

Metadata = dict[str, Any]

T = TypeVar("T")


class Wire(BaseModel):
    """What the service sends: unknown fields are kept out of the way of newer servers."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_enum_values=False)


class Page(Wire, Generic[T]):
    items: list[T]
    next_cursor: str | None = None


class Problem(Wire):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[dict[str, Any]] | None = None


# --- backbones, collections, images ----------------------------------------------------------------------------


class Backbone(Wire):
    """A network. `license` is that of its default weights; null if it is not known.

    `non_commercial`: whether that license is known to allow no commercial use. Other licenses have terms, too.
    """

    name: str
    dim: int
    weights: list[str]
    default: bool = False
    source: Library = Library.TORCHVISION
    license: str | None = None
    non_commercial: bool = False


class IndexState(Wire):
    """An index of vectors: of how many images as of which revision; images that came later are found beside it.

    `status`: `building`, also while an older one is searched, or `ready`.
    """

    status: IndexStatus
    images: int
    revision: int
    ready_at: datetime | None


class Collection(Wire):
    """`index`: what searches use; `index_state` is null without an index of vectors."""

    name: str
    backbone: str
    weights: str
    dim: int
    dtype: DType
    precision: Precision
    # an older service does not say it, and does nothing else
    colors: Colors = Colors.STORED
    fit: Fit = Fit.CROP
    # of the weights, if they are the catalog's
    license: str | None = None
    non_commercial: bool = False
    space_id: str
    image_count: int
    index: IndexMethod = IndexMethod.EXACT
    index_state: IndexState | None = None
    created_at: datetime


class Image(Wire):
    id: str
    key: str
    content_hash: str
    width: int | None
    height: int | None
    format: str | None
    metadata: Metadata
    created_at: datetime


class ImagePage(Page[Image]):
    """`total`: how many images the list has on all of its pages."""

    total: int


class ImagesChanged(Wire):
    changed: int


class LabelCount(Wire):
    """A value of a metadata field, and the number of images that have it."""

    value: Any
    count: int


class Embedding(Wire):
    id: str
    key: str
    dim: int
    dtype: DType
    embedding: list[float]


class KnownImage(Wire):
    key: str
    content_hash: str
    id: str


class KnownImages(Wire):
    items: list[KnownImage]


class ImageNamed(Wire):
    """An image, and the collection that it is in."""

    id: str
    key: str
    collection: str


class Verdict(Wire):
    """What was said of two contents, each with an image that has it; null if they are all gone."""

    a: ImageNamed | None
    b: ImageNamed | None
    verdict: VerdictWord
    created_at: datetime


class VerdictsChanged(Wire):
    """How many there were to change."""

    changed: int


class PageSession(Wire):
    """The owner that is signed in to the web page, and the token for calls by its cookie that change something."""

    auth: Literal["keys", "local"]
    owner: str | None = None
    token: str | None = None


class Upload(Wire):
    id: str
    sha256: str
    size: int


# --- jobs -----------------------------------------------------------------------------------------------------


class Error(Wire):
    code: str
    detail: str


class Progress(Wire):
    """`total` is null until planned; done = embedded + reused + skipped + failed + cancelled.

    `fraction` (0 to 1) also tells how far a clustering is, which counts no images of its own.
    """

    total: int | None
    done: int
    embedded: int
    reused: int
    skipped: int
    failed: int
    cancelled: int
    ignored: int
    fraction: float | None = None
    images_per_s: float | None
    eta_s: float | None


class Links(Wire):
    self: str
    result: str
    items: str
    cancel: str
    retry: str


class Attempt(Wire):
    """One attempt to deliver a job's webhook; `error` is null for the one that arrived."""

    at: datetime
    status_code: int | None
    error: str | None


class Job(Wire):
    """`deliveries` is there for a job with a `callback_url`, where it is shown alone."""

    id: str
    kind: JobKind
    status: JobStatus
    collection: str
    params: dict[str, Any]
    progress: Progress
    queue_position: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    parent_id: str | None
    error: Error | None
    links: Links
    deliveries: list[Attempt] | None = Field(default=None, exclude_if=lambda value: value is None)


class Item(Wire):
    key: str
    status: ItemStatus
    image_id: str | None
    error: Error | None


# --- results ---------------------------------------------------------------------------------------------------


class ViewUsed(Wire):
    """How vectors were compared: scores and distances of equal `id` may be compared; `images` made the view."""

    name: str
    id: str
    images: int


class Copy(Wire):
    id: str
    key: str
    score: float


class Neighbor(Wire):
    rank: int
    id: str
    key: str
    score: float
    metadata: Metadata = {}
    # where duplicates are collapsed: the near-duplicates of this one among the neighbors, best first
    duplicates: list[Copy] | None = None


class Asked(Wire):
    id: str
    key: str


class SearchResult(Wire):
    """`ask`: of a search by several, images whose verdict would teach most, the most telling first."""

    query: dict[str, Any]
    # the part of the query's picture that was searched for; null: all of it
    crop: list[float] | None = None
    top_k: int
    # null: from a server that did not say, and knew `raw` only
    view: ViewUsed | None = None
    # where duplicates are collapsed: the number of neighbors, ranked or not, among which they were looked for
    looked_at: int | None = None
    neighbors: list[Neighbor]
    ask: list[Asked] = []


class Medoid(Wire):
    id: str
    key: str


class Cluster(Wire):
    label: int
    # as a client called it
    name: str | None = None
    size: int
    medoid: Medoid
    cohesion: float


class Assignment(Wire):
    id: str
    key: str
    label: int
    distance: float
    # of its cluster
    name: str | None = None


class Silhouette(Wire):
    """The mean silhouette, -1 to 1, of a sample in that many clusters."""

    n_clusters: int
    score: float


class ClusterResult(Wire):
    n_clusters: int
    metric: Metric
    algorithm: Algorithm
    seed: int
    # of `distance`, `cohesion` and `inertia`; null: from a server that did not say, and knew `raw` only
    view: ViewUsed | None = None
    # of the collection, as its exports have it; null: from a server that did not say
    revision: int | None = None
    inertia: float
    iterations: int
    # rows of the largest mini-batch; null: every pass went over all images
    batch_rows: int | None = None
    # where there are fewer distinct vectors than clusters were asked for: how many, each a cluster of its own
    distinct: int | None = None
    # of the numbers that `auto` tried; null: the job named a number
    silhouettes: list[Silhouette] | None = None
    clusters: list[Cluster]
    assignments: list[Assignment]


class AssignResult(Wire):
    clustering_id: str
    metric: Metric
    # that of the clustering
    view: ViewUsed | None = None
    assignments: list[Assignment]


class Selected(Wire):
    rank: int
    id: str
    key: str
    # 1 - cosine to the nearest one chosen before it or avoided; of the first, where nothing is avoided, to the mean
    distance: float


class SelectResult(Wire):
    """`coverage`: the mean cosine of all images to their nearest chosen one."""

    method: SelectMethod
    n: int
    view: ViewUsed
    revision: int
    coverage: float
    rows: list[Selected]


class Mapped(Wire):
    id: str
    key: str
    # 0 to 1, from the left and from above
    x: float
    y: float


class MapResult(Wire):
    """Similar images lie together; both axes have the same scale."""

    seed: int
    images: int
    view: ViewUsed
    revision: int
    rows: list[Mapped]


class Accuracy(Wire):
    """The share of held-out examples that were classified rightly, and its 95 % interval (Wilson)."""

    value: float
    low: float
    high: float
    # how many were held out in turn: the examples of classes with two or more
    examples: int


class ClassKnown(Wire):
    """How well a class is known; a share is null if no held-out example tells it."""

    label: Any
    examples: int
    precision: float | None
    recall: float | None


class Classified(Wire):
    id: str
    key: str
    label: Any
    probability: float


class ClassifyResult(Wire):
    """`rows`: the images without the field, surest first; `method`: what cross-validation chose."""

    field: str
    method: str
    images: int
    accuracy: Accuracy
    classes: list[ClassKnown]
    view: ViewUsed
    revision: int
    rows: list[Classified]


class Nearest(Wire):
    id: str
    key: str


class Outlier(Wire):
    """An image with its nearest one of other content; `percentile`: the share of images that are less strange."""

    rank: int
    id: str
    key: str
    score: float
    percentile: float
    nearest: Nearest | None


class OutliersResult(Wire):
    """`rows`: the strangest `n` of `images`."""

    n: int
    images: int
    view: ViewUsed
    revision: int
    rows: list[Outlier]


class Kept(Wire):
    """The image of a group to keep; `because` names the first rule in which it beats the next best."""

    id: str
    key: str
    because: str


class DuplicateMember(Wire):
    """An image of a group, with its signs against the kept one; that has no `reason`.

    `hash_bits` (of 64, the mirror's hash for `mirrored`) and `correlation` of the thumbnails are null without a
    thumbnail, or if no rule asked for them.
    """

    id: str
    key: str
    score: float
    reason: DuplicateReason | None
    hash_bits: int | None
    correlation: float | None
    width: int | None
    height: int | None


class DuplicateGroup(Wire):
    """Near-duplicates of one image, which is the first of them; the largest group is 0."""

    group: int
    size: int
    keep: Kept
    members: list[DuplicateMember]


class Look(Wire):
    """Two images, by their ids, that are close by one sign only: never in one group for it."""

    a: str
    b: str
    score: float
    hash_bits: int | None
    a_key: str
    b_key: str


class Histogram(Wire):
    """`counts` has a number for each bin between two `edges`."""

    edges: list[float]
    counts: list[int]


class Example(Wire):
    """Two images, by their ids, whose score is near the threshold."""

    score: float
    a: str
    b: str
    a_key: str
    b_key: str


class DuplicatesResult(Wire):
    """`duplicates`: how many images could go. The histogram is of the scores of images to their nearest one.

    `median_distance`: of images to their nearest of other content, which the threshold is made of.
    """

    threshold: float
    median_distance: float | None
    images: int
    duplicates: int
    group_count: int
    by_reason: dict[str, int]
    view: ViewUsed
    revision: int
    groups: list[DuplicateGroup]
    look: list[Look]
    histogram: Histogram
    examples: list[Example]


class NeighborFigures(Wire):
    """How often neighbors of held-out examples are of their class: of the nearest five, and mean average precision.

    Null if nothing could be held out, which only `force` lets pass.
    """

    precision_at_5: float | None
    map: float | None


class Gains(Wire):
    """The 95 % intervals of what is gained, by bootstrap.

    `examples` is what the space was judged by: how much more of the learned examples nearest to one that was held out
    are of its class, with the interval of repeated cross-validation.
    """

    precision_at_5: tuple[float | None, float | None]
    map: tuple[float | None, float | None]
    # null: from a server that did not say
    examples: tuple[float | None, float | None] | None = None


class AdaptResult(Wire):
    """`collection` is the new one; `before` in the view, `after` in the new space."""

    collection: str
    field: str
    before: NeighborFigures
    after: NeighborFigures
    gain: Gains
    better: bool
    images: int
    dim: int
    space_id: str
    view: ViewUsed
    revision: int


class LabelShare(Wire):
    """How many images of a class are in a share; `label` is null for those without one."""

    label: Any
    count: int


class ShareMade(Wire):
    """A share: its name, the part that was wanted, and what is in it."""

    share: str
    wanted: float
    images: int
    classes: list[LabelShare]


class Placed(Wire):
    """An image and the share that it went to; images of one `group` are near-duplicates, null is one by itself."""

    id: str
    key: str
    share: str
    group: int | None


class SplitResult(Wire):
    """`groups`: how many sets of near-duplicates there are, `grouped`: how many images are in one.

    The images that there were at `revision` have their share in their metadata's `field`.
    """

    field: str
    stratify: str | None
    seed: int
    threshold: float
    images: int
    groups: int
    grouped: int
    counts: list[ShareMade]
    view: ViewUsed
    revision: int
    rows: list[Placed]


class IndexCheck(Wire):
    """The share of the true neighbors that searches by the index find, and what a search takes in milliseconds.

    The queries are images of the collection, drawn by chance. `low` and `high`: the 95 % interval (Wilson) of the
    mean share of the queries. `ms` and `exact_ms`: medians, one query at a time on the worker that checked.
    """

    queries: int
    top_k: int
    recall: float
    low: float
    high: float
    ms: float
    exact_ms: float
    view: ViewUsed


class IndexResult(Wire):
    """What searches of the collection use now; `images` and `nbytes` are of the index, 0 without one.

    `check` is null if the job was to build or remove an index.
    """

    index: IndexMethod
    images: int
    nbytes: int
    revision: int
    check: IndexCheck | None = None


class EmbedResult(Wire):
    collection: str
    total: int
    embedded: int
    reused: int
    skipped: int
    failed: int
    cancelled: int
    ignored: int
