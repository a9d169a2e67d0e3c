"""What clients send.

Long because it is a list: one model for each body, and what its fields refuse.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

from imagekin.enums import (
    Algorithm,
    Colors,
    DType,
    Fit,
    IndexMethod,
    Metric,
    OnConflict,
    Precision,
    Refine,
    SelectMethod,
    VerdictWord,
    ViewName,
)
from imagekin.schemas.answers import Metadata

MAX_TOP_K = 1000
MAX_CLUSTERS = 10_000
MAX_TRIED_CLUSTERS = 500
MAX_CLUSTER_NAME_CHARS = 256
MAX_URLS = 10_000
MAX_ASSIGN = 10_000
MAX_CONTENTS = 10_000
MAX_SELECT = 10_000
MAX_AVOID = 10_000
MAX_EXAMPLES = 64
MAX_CHOSEN = 10_000
MAX_PAIRS = 10_000
MAX_OUTLIERS = 10_000
MAX_SHARES = 100
MAX_CHECKED = 10_000
# How far shares may be from 1 together: three thirds are 0.999.
SHARES_TOLERANCE = 0.001

MAX_NAME_CHARS = 128
NAME_RULE = (
    f"it has up to {MAX_NAME_CHARS} letters (a to z), digits, `.`, `_` and `-`, and starts with a letter or digit"
)
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_HASH = r"^[0-9a-f]{64}$"


MAX_KEY_CHARS = 1024


def _checked_name(name: str) -> str:
    if not 1 <= len(name) <= MAX_NAME_CHARS or not re.fullmatch(_NAME.removesuffix("$"), name):
        raise PydanticCustomError("name", "This is not a name: {rule}", {"rule": NAME_RULE})
    return name


def _checked_hash(digest: str) -> str:
    if not re.fullmatch(_HASH.removesuffix("$"), digest):
        raise PydanticCustomError("content_hash", "It must be a SHA-256, 64 of the digits 0 to 9 and a to f")
    return digest


# As JSON in UTF-8. A filter stands in its job, and a page of a list shows a thousand jobs.
MAX_METADATA_BYTES = 64 << 10
MAX_FILTER_BYTES = 16 << 10


def json_bytes(value: Metadata) -> int:
    """Return the size of metadata or a filter in bytes, as JSON in UTF-8."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))


def _at_most(max_bytes: int) -> Callable[[Metadata], Metadata]:
    def check(value: Metadata) -> Metadata:
        size = json_bytes(value)
        if size > max_bytes:
            raise PydanticCustomError(
                "too_long",
                "This has {size} bytes as JSON; at most {most} are allowed",
                {"size": f"{size:,}", "most": f"{max_bytes:,}"},
            )
        return value

    return check


Filter = Annotated[
    Metadata,
    AfterValidator(_at_most(MAX_FILTER_BYTES)),
    Field(
        description="Fields of metadata and their values: a list is any of them, null is not set, `!` before a name "
        "is the opposite."
    ),
]
GivenMetadata = Annotated[Metadata, AfterValidator(_at_most(MAX_METADATA_BYTES))]
Name = Annotated[
    str,
    AfterValidator(_checked_name),
    Field(
        description="Letters, digits, `.`, `_` and `-`, starting with a letter or digit.",
        json_schema_extra={"minLength": 1, "maxLength": MAX_NAME_CHARS, "pattern": _NAME},
    ),
]
FieldName = Annotated[
    str, StringConstraints(min_length=1, max_length=256), Field(description="A field of the images' metadata.")
]
Id = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


def _be_strict(schema: Any) -> None:
    """Have the numbers and booleans in a schema of pydantic's accept nothing else."""
    if isinstance(schema, dict):
        if schema.get("type") in ("int", "float", "bool"):
            schema["strict"] = True
        for part in schema.values():
            _be_strict(part)
    elif isinstance(schema, list):
        for part in schema:
            _be_strict(part)


class Body(BaseModel):
    """What a client sends: an unknown field is probably a typing error, so it is refused.

    Numbers are numbers and booleans are booleans, no texts that look like them; a form has texts alone and is read with
    `strict=False`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _be_strict(schema)
        return schema


# --- collections, images ---------------------------------------------------------------------------------------


class CollectionBody(Body):
    name: Name
    backbone: str | None = None
    weights: str | None = None
    dtype: DType = DType.FLOAT32
    precision: Precision = Precision.EXACT
    colors: Colors = Colors.SRGB
    fit: Fit | None = None


class ImagePatch(Body):
    metadata: GivenMetadata


_WAYS_TO_CHOOSE = {"image_ids": "array", "image_keys": "array", "filter": "object"}


class ImagesBody(Body):
    """Images by their ids, by their keys or by a filter, in just one of these ways."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [name], "properties": {name: {"type": kind}}} for name, kind in _WAYS_TO_CHOOSE.items()
            ]
        }
    )

    image_ids: Annotated[list[Id], Field(max_length=MAX_CHOSEN)] | None = None
    image_keys: Annotated[list[Key], Field(max_length=MAX_CHOSEN)] | None = None
    filter: Filter | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(way is not None for way in (self.image_ids, self.image_keys, self.filter)) != 1:
            raise PydanticCustomError("one_way", "Name images by image_ids, image_keys or filter, and by one of these")
        return self


class ImagesPatch(ImagesBody):
    metadata: Annotated[GivenMetadata, Field(description="Fields that are set; one that is null is removed.")]


class PairNamed(Body):
    """Two images by their ids."""

    a: Id
    b: Id


class VerdictGiven(PairNamed):
    verdict: VerdictWord


class VerdictsBody(Body):
    pairs: Annotated[list[VerdictGiven], Field(min_length=1, max_length=MAX_PAIRS)]


class PairsBody(Body):
    pairs: Annotated[list[PairNamed], Field(min_length=1, max_length=MAX_PAIRS)]


class SignInBody(Body):
    key: Annotated[str, Field(min_length=1, max_length=MAX_KEY_CHARS, description="An API key.")]


class Content(Body):
    """What a key stands for on the client's side: the SHA-256 of its file, in hexadecimal."""

    key: Key
    content_hash: Annotated[str, AfterValidator(_checked_hash), Field(json_schema_extra={"pattern": _HASH})]


class KnownBody(Body):
    images: Annotated[list[Content], Field(min_length=1, max_length=MAX_CONTENTS)]


# --- jobs -----------------------------------------------------------------------------------------------------


Exclude = Annotated[
    list[Annotated[str, StringConstraints(min_length=1, max_length=256)]] | None,
    Field(max_length=100, description="Patterns of names, or of paths where they have a `/`, that are left out."),
]


Prefix = Annotated[
    Annotated[str, StringConstraints(min_length=1, max_length=1024)] | None,
    Field(description="Only images whose key begins like this: several jobs, by prefix, are planned at the same time."),
]


class UploadSource(Body):
    type: Literal["upload"]
    upload_id: Id
    exclude: Exclude = None
    named: Annotated[
        bool, Field(description="The client chose each member of the archive, so each one is an item, of any type.")
    ] = False


class FolderSource(Body):
    type: Literal["folder"]
    path: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    exclude: Exclude = None
    prefix: Prefix = None


class UrlItem(Body):
    url: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    key: Key | None = None
    metadata: GivenMetadata | None = None


class UrlsSource(Body):
    type: Literal["urls"]
    urls: Annotated[list[UrlItem], Field(min_length=1, max_length=MAX_URLS)]


class ManifestSource(Body):
    type: Literal["manifest"]
    upload_id: Id
    prefix: Prefix = None


class LocationSource(Body):
    type: Literal["location"]
    url: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    exclude: Exclude = None
    prefix: Prefix = None


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


# what a sum of two shares may be above 1, as 0.7 and 0.3 may be
_ROUNDING = 1e-6


def _inside(crop: list[float]) -> list[float]:
    left, top, width, height = crop
    if not (width > 0 and height > 0 and left + width <= 1 + _ROUNDING and top + height <= 1 + _ROUNDING):
        raise PydanticCustomError(
            "crop", "It must be a part of the picture: width and height above 0, x + width and y + height at most 1"
        )
    return crop


Crop = Annotated[
    list[Annotated[float, Field(ge=0, le=1)]],
    Field(
        min_length=4,
        max_length=4,
        description="x, y, width and height in shares of the upright picture: only this part is searched for.",
    ),
    AfterValidator(_inside),
]


class SearchFields(JobBody):
    """What every search has beside what is searched for."""

    top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K)] = 10
    min_score: Annotated[float, Field(ge=-1, le=1)] | None = None
    exclude_query: bool = True
    view: ViewName = ViewName.CALIBRATED
    filter: Filter | None = None
    crop: Crop | None = None
    collapse_duplicates: Annotated[
        bool, Field(description="A near-duplicate of a better neighbor is listed with that one and takes no rank.")
    ] = False


class SearchForm(SearchFields):
    """The fields beside `image` in a multipart search request; the image is right, too."""

    positives: Annotated[list[Query], Field(max_length=MAX_EXAMPLES - 1)] = []
    negatives: Annotated[list[Query], Field(max_length=MAX_EXAMPLES)] = []
    refine: Refine = Refine.ROCCHIO


class SearchBody(SearchFields):
    """One `query`, or several: `positives` that are right, and perhaps `negatives` that are wrong."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["query"]}, {"required": ["positives"]}]},
    )

    query: Query | None = None
    positives: Annotated[list[Query], Field(min_length=1, max_length=MAX_EXAMPLES)] | None = None
    negatives: Annotated[list[Query], Field(max_length=MAX_EXAMPLES)] = []
    refine: Refine = Refine.ROCCHIO

    @field_validator("positives", mode="after")
    @classmethod
    def _one_way(cls, positives: list[Query] | None, info: ValidationInfo) -> list[Query] | None:
        if positives is not None and info.data.get("query") is not None:
            raise PydanticCustomError("one_way", "Give `query` or `positives`, not both")
        return positives

    @field_validator("negatives", mode="after")
    @classmethod
    def _with_positives(cls, negatives: list[Query], info: ValidationInfo) -> list[Query]:
        if negatives and info.data.get("positives") is None and "positives" in info.data:
            raise PydanticCustomError("needs_positives", "Negatives need `positives` beside them")
        return negatives


def _number_or_auto(value: Any, check: ValidatorFunctionWrapHandler) -> int | str:
    try:
        return check(value)
    except ValidationError:
        # one fault, not one for each of the two types
        raise PydanticCustomError(
            "n_clusters", "It must be a whole number from 1 to {most} or `auto`", {"most": f"{MAX_CLUSTERS:,}"}
        ) from None


class ClusterBody(JobBody):
    n_clusters: Annotated[
        Annotated[int, Field(ge=1, le=MAX_CLUSTERS)] | Literal["auto"],
        WrapValidator(_number_or_auto),
        Field(description="`auto`: the number up to `max_clusters` whose clusters have the highest silhouette."),
    ]
    max_clusters: Annotated[
        int, Field(ge=2, le=MAX_TRIED_CLUSTERS, description="The largest number that `auto` tries.")
    ] = 50
    metric: Metric = Metric.EUCLIDEAN
    algorithm: Algorithm = Algorithm.KMEANS
    view: ViewName = ViewName.CALIBRATED
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 100
    n_init: Annotated[int, Field(ge=1, le=100)] | None = None


class ClusterPatch(Body):
    name: Annotated[
        Annotated[str, StringConstraints(min_length=1, max_length=MAX_CLUSTER_NAME_CHARS)] | None,
        Field(description="What the cluster is called; null removes its name."),
    ]


class SelectBody(JobBody):
    n: Annotated[int, Field(ge=1, le=MAX_SELECT)]
    method: SelectMethod = SelectMethod.REPRESENTATIVE
    view: ViewName = ViewName.CALIBRATED
    filter: Filter | None = None
    avoid: Annotated[
        Name | Annotated[list[Id], Field(max_length=MAX_AVOID)] | None,
        Field(description="A collection of the same space, or ids of images: what is chosen lies away from them."),
    ] = None


class MapBody(JobBody):
    view: ViewName = ViewName.CALIBRATED
    filter: Filter | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 100


class ClassifyBody(JobBody):
    field: FieldName = "label"
    min_probability: Annotated[float, Field(ge=0, le=1)] = 0.0
    view: ViewName = ViewName.CALIBRATED
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 100


class OutliersBody(JobBody):
    n: Annotated[int, Field(ge=1, le=MAX_OUTLIERS)] = 100
    view: ViewName = ViewName.CALIBRATED
    filter: Filter | None = None


class DuplicatesBody(JobBody):
    """`against` or `between`, not both."""

    model_config = ConfigDict(
        json_schema_extra={
            "not": {
                "required": ["against", "between"],
                "properties": {"against": {"type": "string"}, "between": {"type": "string"}},
            }
        }
    )

    threshold: Annotated[
        Annotated[float, Field(gt=0, le=1)] | None,
        Field(description="A cosine in the view; by default 1 - 0.13 x the median distance to the nearest image."),
    ] = None
    against: Annotated[
        Name | None, Field(description="A collection of the same space: duplicates of its images are looked for.")
    ] = None
    between: Annotated[
        FieldName | None,
        Field(description="A name in the metadata: only images whose values differ, for leaks between splits."),
    ] = None
    # what the thresholds were found in
    view: ViewName = ViewName.RAW
    filter: Filter | None = None


def _checked_shares(shares: dict[str, float]) -> dict[str, float]:
    # rounded because 0.999 is farther from 1 than 0.001 by a rounding error
    if round(abs(sum(shares.values()) - 1), 9) > SHARES_TOLERANCE:
        raise PydanticCustomError(
            "shares", "Shares add up to 1; these add up to {sum}", {"sum": f"{sum(shares.values()):.6g}"}
        )
    return shares


class SplitBody(JobBody):
    """Which field says to which share an image belongs; it is written by the job."""

    field: FieldName = "split"
    shares: Annotated[
        dict[
            Annotated[str, StringConstraints(min_length=1, max_length=128)],
            Annotated[float, Field(gt=0, le=1)],
        ],
        AfterValidator(_checked_shares),
        Field(min_length=1, max_length=MAX_SHARES, description="Names of the shares and their sizes, together 1."),
    ] = {"train": 0.8, "val": 0.1, "test": 0.1}
    stratify: Annotated[
        FieldName | None,
        Field(description="A field of the images' metadata whose values are divided by the same shares."),
    ] = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 100
    threshold: Annotated[
        Annotated[float, Field(gt=0, le=1)] | None,
        Field(description="The cosine from which images are near-duplicates, as in duplicates jobs."),
    ] = None

    @field_validator("stratify", mode="after")
    @classmethod
    def _another_field(cls, stratify: str | None, info: ValidationInfo) -> str | None:
        if stratify is not None and stratify == info.data.get("field"):
            raise PydanticCustomError("same_field", "It is the field that is written; name another one")
        return stratify


class AdaptBody(JobBody):
    name: Annotated[Name, Field(description="Of the new collection.")]
    field: FieldName = "label"
    force: Annotated[bool, Field(description="Make it also if cross-validation shows no gain.")] = False
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 100


class IndexBody(Body):
    """What searches of the collection are to use."""

    index: Annotated[
        IndexMethod, Field(description="`hnsw` needs PostgreSQL with the extension pgvector; it is built again.")
    ]
    callback_url: Annotated[str, StringConstraints(max_length=2048)] | None = None


class IndexCheckBody(Body):
    queries: Annotated[
        int, Field(ge=1, le=MAX_CHECKED, description="Images that are searched for, drawn by chance.")
    ] = 100
    top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K)] = 10
    view: ViewName = ViewName.CALIBRATED
    callback_url: Annotated[str, StringConstraints(max_length=2048)] | None = None


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
