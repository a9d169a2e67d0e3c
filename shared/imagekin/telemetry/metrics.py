"""What is measured, all of it: the names, labels and meanings of the numbers that Prometheus gets.

Each group has a registry of its own. `JOBS` and `WORK` are the process's; where PROMETHEUS_MULTIPROC_DIR was set when
this module was first imported, their numbers also lie in files of that folder, for a worker's parent to add up.
"""

from __future__ import annotations

from collections.abc import Iterable

import prometheus_client as prometheus

from imagekin.enums import TERMINAL, ItemStatus, Lane
from imagekin.schemas.kinds import CHUNK_KINDS, JobKind

# From a cached read to a held `Prefer: wait`.
REQUEST_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# From a thumbnail to a decoder that hangs, from a search in memory to a network on a slow core.
STAGE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
# From a search to a night's archive.
JOB_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800, 7200, 28800)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHARES = (0.25, 0.5, 0.75, 0.99, 1)


class Requests:
    """What one app of the API answers."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        self.waiting = prometheus.Gauge(
            "imagekin_requests_waiting", "Requests held by `Prefer: wait`.", registry=self.registry
        )
        self.count = prometheus.Counter(
            "imagekin_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = prometheus.Histogram(
            "imagekin_request_seconds", "Time to an answer.", ("method", "route"),
            buckets=REQUEST_S, registry=self.registry,
        )  # fmt: skip


class Snapshot:
    """What the database says at one moment."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        self.jobs = prometheus.Gauge("imagekin_jobs", "Jobs by status.", ("status",), registry=self.registry)
        self.queue_chunks = prometheus.Gauge(
            "imagekin_queue_chunks",
            "Chunks to be done; of ready ones at most 100,000 of a lane are counted.",
            ("lane", "status"),
            registry=self.registry,
        )
        self.queue_images = prometheus.Gauge(
            "imagekin_queue_images", "Images that are planned and have not ended.", registry=self.registry
        )
        self.queue_age = prometheus.Gauge(
            "imagekin_queue_age_seconds",
            "Time since the submission of the oldest job that has a chunk waiting; 0 where none waits.",
            ("lane",),
            registry=self.registry,
        )
        self.workers = prometheus.Gauge(
            "imagekin_workers", "Workers heard of in the last 30 s.", ("lane",), registry=self.registry
        )


class Jobs:
    """What the state machine commits, in any process."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        self.ended = prometheus.Counter(
            "imagekin_jobs_ended", "Jobs that ended.", ("kind", "status"), registry=self.registry
        )
        self.seconds = prometheus.Histogram(
            "imagekin_job_seconds", "Time from a job's submission to its end.", ("kind",),
            buckets=JOB_S, registry=self.registry,
        )  # fmt: skip
        self.images = prometheus.Counter(
            "imagekin_images", "Images of embed jobs that ended.", ("status",), registry=self.registry
        )
        self.errors = prometheus.Counter(
            "imagekin_image_errors", "Images that failed.", ("code",), registry=self.registry
        )
        # a counter that begins at 1 hides its first event from rate() and increase()
        for kind in JobKind:
            self.seconds.labels(kind)
            for status in TERMINAL:
                self.ended.labels(kind, status)
        for status in ItemStatus:
            if status != ItemStatus.IGNORED:
                self.images.labels(status)

    def note_images(self, status: ItemStatus, count: int) -> None:
        """Count images that ended in one way."""
        self.images.labels(status).inc(count)

    def note_errors(self, codes: Iterable[str | None]) -> None:
        """Count the codes of failed images; None is that of one which did not fail."""
        for code in codes:
            if code is not None:
                self.errors.labels(code).inc()

    def note_end(self, kind: str, status: str, seconds: float) -> None:
        """Count a job that ended `seconds` after its submission."""
        self.ended.labels(kind, status).inc()
        self.seconds.labels(kind).observe(max(0.0, seconds))


class Work:
    """What a worker's processes do."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        self.rings = prometheus.Counter(
            "imagekin_rings", "Rings answered, by whether there was work.", ("found",), registry=self.registry
        )
        self.claims = prometheus.Counter(
            "imagekin_claims",
            "Claims worked on, by how that ended: done, lost (to another worker or a cancellation), failed (the job), "
            "loading (a network that takes long), unavailable (database or storage), broken (an exception) or timeout.",
            ("kind", "outcome"),
            registry=self.registry,
        )
        self.claim_chunks = self._histogram("imagekin_claim_chunks", "Chunks of one claim.", COUNTS, ("kind",))
        self.claim_images = self._histogram("imagekin_claim_images", "Images of one claim of embed chunks.", COUNTS)
        self.claim_seconds = self._histogram("imagekin_claim_seconds", "Time of one claim.", STAGE_S, ("kind",))
        self.leases_lost = prometheus.Counter(
            "imagekin_leases_lost",
            "Chunks that were lost while they were worked on, to another worker or to a cancellation.",
            registry=self.registry,
        )
        self.child_deaths = prometheus.Counter(
            "imagekin_child_deaths", "Children that were killed or crashed at work.", registry=self.registry
        )
        self.read_seconds = self._histogram("imagekin_read_seconds", "Time to read one image's bytes.", STAGE_S)
        self.lookup_seconds = self._histogram(
            "imagekin_lookup_seconds", "Time to find which of a handful of images are stored already.", STAGE_S
        )
        self.decode_seconds = self._histogram(
            "imagekin_decode_seconds", "Time to decode one image, with its thumbnail.", STAGE_S
        )
        self.forward_seconds = self._histogram("imagekin_forward_seconds", "Time of one batch in the network.", STAGE_S)
        self.store_seconds = self._histogram(
            "imagekin_store_seconds", "Time of the transaction that ends one chunk of images.", STAGE_S
        )
        self.batch_fill = self._histogram(
            "imagekin_batch_fill_ratio", "Images of one batch, as a share of the batch size.", SHARES
        )
        self.model_load_seconds = self._histogram(
            "imagekin_model_load_seconds", "Time to load a backbone.", STAGE_S, ("backbone",)
        )
        self.product_searches = self._histogram(
            "imagekin_product_searches", "Searches answered by one matrix product.", COUNTS
        )
        self.matrix_bytes = prometheus.Gauge(
            "imagekin_matrix_bytes", "Resident matrices of collections.", registry=self.registry,
            multiprocess_mode="livesum",
        )  # fmt: skip
        for found in ("work", "nothing"):
            self.rings.labels(found)
        for kind in CHUNK_KINDS:
            self.claim_chunks.labels(kind)
            self.claim_seconds.labels(kind)

    def _histogram(
        self, name: str, meaning: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()
    ) -> prometheus.Histogram:
        return prometheus.Histogram(name, meaning, labels, buckets=buckets, registry=self.registry)


class Processes:
    """A worker's processes, as their parent counts them."""

    def __init__(self, lane: Lane, version: str) -> None:
        self.registry = prometheus.CollectorRegistry()
        self._gauge("imagekin_worker_info", "Always 1.", ("lane", "version")).labels(lane, version).set(1)
        self.children = self._gauge("imagekin_children", "Living children.")
        self.children_bytes = self._gauge(
            "imagekin_children_resident_bytes", "Resident memory of the children together."
        )

    def _gauge(self, name: str, meaning: str, labels: tuple[str, ...] = ()) -> prometheus.Gauge:
        return prometheus.Gauge(name, meaning, labels, registry=self.registry, multiprocess_mode="livemax")


JOBS = Jobs()
WORK = Work()
