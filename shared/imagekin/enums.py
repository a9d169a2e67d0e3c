"""The words that jobs, items and collections are described with."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class JobStatus(StrEnum):
    QUEUED = "queued"
    PLANNING = "planning"
    RUNNING = "running"
    FINALIZING = "finalizing"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return self in TERMINAL


TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.PARTIAL, JobStatus.FAILED, JobStatus.CANCELLED})
UNFINISHED = tuple(status for status in JobStatus if status not in TERMINAL)


class ItemStatus(StrEnum):
    EMBEDDED = "embedded"
    REUSED = "reused"
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCELLED = "cancelled"
    # told where it is asked for; it is none of the job's images
    IGNORED = "ignored"


# What a chunk and its job count of the images that a worker dealt with.
COUNTED = (ItemStatus.EMBEDDED, ItemStatus.REUSED, ItemStatus.SKIPPED, ItemStatus.FAILED)


class ChunkStatus(StrEnum):
    READY = "ready"
    CLAIMED = "claimed"
    DONE = "done"
    QUARANTINED = "quarantined"
    CANCELLED = "cancelled"


OPEN_CHUNKS = (ChunkStatus.READY, ChunkStatus.CLAIMED)
ENDED_CHUNKS = (ChunkStatus.DONE, ChunkStatus.QUARANTINED, ChunkStatus.CANCELLED)


class Lane(StrEnum):
    """The two queues, each with workers of its own, so that a search never waits behind an archive."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


class OnConflict(StrEnum):
    """What happens when the key is in the collection with other content."""

    REPLACE = "replace"
    SKIP = "skip"
    FAIL = "fail"


class Metric(StrEnum):
    EUCLIDEAN = "euclidean"
    COSINE = "cosine"


#: The number of clusters that a cluster job is to choose itself.
AUTO: Final = "auto"


class Algorithm(StrEnum):
    KMEANS = "kmeans"
    KMEANS_PYTORCH = "kmeans-pytorch"


class DType(StrEnum):
    FLOAT32 = "float32"
    FLOAT16 = "float16"


class Precision(StrEnum):
    """`exact`: cosine >= 0.9999 to the reference on any device. `fast`: reduced-scale decode, half precision."""

    EXACT = "exact"
    FAST = "fast"


class Colors(StrEnum):
    """`srgb`: a picture's colors are brought from its profile into sRGB. `stored`: they are taken as they stand."""

    STORED = "stored"
    SRGB = "srgb"


class Library(StrEnum):
    """Where a network comes from: imagekin itself, torchvision, timm (an extra), or a file of one's own."""

    IMAGEKIN = "imagekin"
    TORCHVISION = "torchvision"
    TIMM = "timm"
    OWN = "own"


class Fit(StrEnum):
    """How a picture comes into the network's input.

    `crop`: what stands in the middle, the rest is cut off. `pad`: the whole picture, with a border in the weights' mean
    color. `squash`: the whole picture, its sides changed unequally.
    """

    CROP = "crop"
    PAD = "pad"
    SQUASH = "squash"


class ImageOrder(StrEnum):
    """The order of a list of images: as they came, the newest first, or by key, code point by code point."""

    CREATED = "created"
    NEWEST = "-created"
    KEY = "key"


class ViewName(StrEnum):
    """How vectors are compared: as the network made them, or with what it crowds together spread."""

    CALIBRATED = "calibrated"
    RAW = "raw"


class IndexMethod(StrEnum):
    """How a collection is searched: all vectors, or those that an HNSW graph in PostgreSQL leads to."""

    EXACT = "exact"
    HNSW = "hnsw"


class IndexStatus(StrEnum):
    """What an index is: on its way, searched, or left by a job that ended otherwise or by a newer one."""

    BUILDING = "building"
    READY = "ready"
    DROPPED = "dropped"


class Refine(StrEnum):
    """How several examples become one direction: by their means, or by what tells them from others."""

    ROCCHIO = "rocchio"
    LOGISTIC = "logistic"


class SelectMethod(StrEnum):
    """Which images are chosen: the medoids of n clusters, or each time the one farthest from all before."""

    REPRESENTATIVE = "representative"
    DIVERSE = "diverse"


class DuplicateReason(StrEnum):
    """Why an image is a near-duplicate of the one that is kept."""

    #: the same bytes
    IDENTICAL = "identical"
    #: perceptual hash and thumbnails agree
    SAME = "same"
    #: one is the mirror image of the other
    MIRRORED = "mirrored"
    #: close for the network, or cut out of the other
    EDITED = "edited"
    #: a verdict says so
    VERDICT = "verdict"


class VerdictWord(StrEnum):
    """A person's verdict on two images."""

    SAME = "same"
    DIFFERENT = "different"
