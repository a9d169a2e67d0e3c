"""The wire: one definition for API, client and command line. Times are RFC 3339 in UTC."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from imagekin.types import (
    Algorithm,
    DType,
    ItemStatus,
    JobKind,
    JobStatus,
    Metric,
    OnConflict,
    Precision,
)

MAX_TOP_K = 1000
MAX_CLUSTERS = 10_000
MAX_URLS = 10_000
MAX_ASSIGN = 10_000
MAX_CONTENTS = 10_000

Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"),
    Field(description="Letters, digits, `.`, `_` and `-`, starting with a letter or digit."),
]
Id = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Metadata = dict[str, Any]

T = TypeVar("T")


class Wire(BaseModel):
    """What the service sends: unknown fields are kept out of the way of newer servers."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_enum_values=False)


class Body(BaseModel):
    """What a client sends: a field nobody knows is a typing error, so it is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
    name: str
    dim: int
    weights: list[str]
    default: bool = False


class CollectionBody(Body):
    name: Name
    backbone: str | None = None
    weights: str | None = None
    dtype: DType = DType.FLOAT32
    precision: Precision = Precision.EXACT


class Collection(Wire):
    name: str
    backbone: str
    weights: str
    dim: int
    dtype: DType
    precision: Precision
    space_id: str
    image_count: int
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


class ImagePatch(Body):
    metadata: Metadata


class Embedding(Wire):
    id: str
    key: str
    dim: int
    dtype: DType
    embedding: list[float]


class Content(Body):
    """What a key stands for on the client's side: the SHA-256 of its file, in hexadecimal."""

    key: Key
    content_hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class KnownBody(Body):
    images: Annotated[list[Content], Field(min_length=1, max_length=MAX_CONTENTS)]


class KnownImage(Wire):
    key: str
    content_hash: str
    id: str


class KnownImages(Wire):
    items: list[KnownImage]


class Upload(Wire):
    id: str
    sha256: str
    size: int


# --- jobs: what clients post -----------------------------------------------------------------------------------


class UploadSource(Body):
    type: Literal["upload"]
    upload_id: Id


class FolderSource(Body):
    type: Literal["folder"]
    path: Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class UrlItem(Body):
    url: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    key: Key | None = None
    metadata: Metadata | None = None


class UrlsSource(Body):
    type: Literal["urls"]
    urls: Annotated[list[UrlItem], Field(min_length=1, max_length=MAX_URLS)]


class ManifestSource(Body):
    type: Literal["manifest"]
    upload_id: Id


class LocationSource(Body):
    type: Literal["location"]
    url: Annotated[str, StringConstraints(min_length=1, max_length=4096)]


Source = Annotated[
    UploadSource | FolderSource | UrlsSource | ManifestSource | LocationSource, Field(discriminator="type")
]


class JobBody(Body):
    collection: Name
    callback_url: Annotated[str, StringConstraints(max_length=2048)] | None = None


class EmbedBody(JobBody):
    source: Source
    on_conflict: OnConflict = OnConflict.REPLACE


class EmbedForm(JobBody):
    """The fields beside `images` or `archive` in a multipart embed request."""

    on_conflict: OnConflict = OnConflict.REPLACE


class ImageIdQuery(Body):
    image_id: Id


class ImageKeyQuery(Body):
    image_key: Key


class EmbeddingQuery(Body):
    embedding: Annotated[list[float], Field(min_length=1, max_length=16_384)]


class UrlQuery(Body):
    url: Annotated[str, StringConstraints(min_length=1, max_length=4096)]


Query = ImageIdQuery | ImageKeyQuery | EmbeddingQuery | UrlQuery


class SearchForm(JobBody):
    """The fields beside `image` in a multipart search request."""

    top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K)] = 10
    min_score: Annotated[float, Field(ge=-1, le=1)] | None = None
    exclude_query: bool = True
    filter: Metadata | None = None


class SearchBody(SearchForm):
    query: Query


class ClusterBody(JobBody):
    n_clusters: Annotated[int, Field(ge=1, le=MAX_CLUSTERS)]
    metric: Metric = Metric.EUCLIDEAN
    algorithm: Algorithm = Algorithm.KMEANS
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 100
    n_init: Annotated[int, Field(ge=1, le=100)] | None = None


class AssignBody(Body):
    """Images by their ids or by their keys, not by both; by neither, all that came or changed after the clustering."""

    model_config = ConfigDict(
        json_schema_extra={
            "not": {
                "required": ["image_ids", "image_keys"],
                "properties": {"image_ids": {"type": "array"}, "image_keys": {"type": "array"}},
            }
        }
    )

    clustering_id: Id
    image_ids: Annotated[list[Id], Field(max_length=MAX_ASSIGN)] | None = None
    image_keys: Annotated[list[Key], Field(max_length=MAX_ASSIGN)] | None = None
    callback_url: Annotated[str, StringConstraints(max_length=2048)] | None = None


class ImportForm(Body):
    """What may be said beside the file: in a form, or in the query of a raw body."""

    on_conflict: OnConflict = OnConflict.REPLACE
    callback_url: Annotated[str, StringConstraints(max_length=2048)] | None = None


class ImportBody(ImportForm):
    upload_id: Id


class RetryBody(Body):
    items: Literal["failed", "all"] = "failed"
    callback_url: Annotated[str, StringConstraints(max_length=2048)] | None = None


# --- jobs: what clients see ------------------------------------------------------------------------------------


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


class Neighbor(Wire):
    rank: int
    id: str
    key: str
    score: float
    metadata: Metadata = {}


class SearchResult(Wire):
    query: dict[str, Any]
    top_k: int
    neighbors: list[Neighbor]


class Medoid(Wire):
    id: str
    key: str


class Cluster(Wire):
    label: int
    size: int
    medoid: Medoid
    cohesion: float


class Assignment(Wire):
    id: str
    key: str
    label: int
    distance: float


class ClusterResult(Wire):
    n_clusters: int
    metric: Metric
    algorithm: Algorithm
    seed: int
    inertia: float
    iterations: int
    # rows of the largest mini-batch; null: every pass went over all images
    batch_rows: int | None = None
    clusters: list[Cluster]
    assignments: list[Assignment]


class AssignResult(Wire):
    clustering_id: str
    metric: Metric
    assignments: list[Assignment]


class EmbedResult(Wire):
    collection: str
    total: int
    embedded: int
    reused: int
    skipped: int
    failed: int
    cancelled: int
    ignored: int
