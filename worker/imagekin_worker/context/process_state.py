"""The state of one worker process: settings, database, storage, warm models, resident matrices."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import structlog
from celery.utils.log import current_process_index
from sqlalchemy.orm import Session

from imagekin import catalog, doorbell, presence
from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import Lane, Precision
from imagekin.jobs import claim
from imagekin.schemas.kinds import PLAN
from imagekin.settings import Settings
from imagekin.store.blobs import Blobs
from imagekin.telemetry import metrics
from imagekin.uploads.files import Storage
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.walks import Walks
from imagekin_worker.matrix.indexed import Searches
from imagekin_worker.matrix.loaded import Residents
from imagekin_worker.network import backbones, devices
from imagekin_worker.network.devices import cores
from imagekin_worker.network.models import Models
from imagekin_worker.pipeline.single import Passes
from imagekin_worker.tuning import tuner

log = structlog.get_logger()

MOST_SEARCHES = 64
# Until the speed of a backbone is known: few enough for the slowest one.
FIRST_IMAGES = 16
# The part of the soft time limit that a task waits for a network. A load may take minutes, which is no image's fault.
LOADING_PART = 0.25
# Claims that follow the owners' turns whatever is in memory; at random, so that no order of owners can keep step with
# them and wait forever. A network takes about as long to load as a few claims take.
BY_TURNS = 1 / 8
# How much of the newest measurement goes into the speed.
SMOOTHING = 0.3


class Node:
    """One process of a worker; it is not shared between threads, unless a part says so."""

    def __init__(self, settings: Settings, lane: Lane) -> None:
        self.settings = settings
        self.lane = lane
        self.database = Database(settings.database, blobs=Blobs.of(settings))
        self.storage = Storage(settings)
        self.device = devices.choose(settings, process_index())
        self.models = Models(settings, self._load)
        self.tuner = tuner.Tuner(settings)
        self.passes = Passes(settings.lanes)
        self.residents = Residents.of(settings, self.database, self.device)
        self.searches = Searches.of(settings, self.database, self.residents)
        self.doorbell = doorbell.Doorbell(settings)
        # what this process keeps of a job between two of its slices, by the job's id
        self.slices: dict[str, Any] = {}
        # of adapted spaces, by their ids
        self.projections: dict[str, Any] = {}
        self.walks: Walks[Any] = Walks()
        # set when the process must go: what it has in hand is handed back
        self.leaving = threading.Event()
        self.last_owner = ""
        self._images_per_s: dict[str, float] = {}
        # a space never changes
        self._spaces: dict[str, catalog.Space] = {}
        self._last_space = ""
        self._planned = 0
        batch = backbones.GPU_BATCH if self.device.type == "cuda" else backbones.CPU_BATCH
        # what all lanes take at once
        self._fill = (settings.batch_size or batch) * (1 if self.device.type == "cuda" else settings.lanes or cores())
        self._has_planned = False
        self._last_planned = ""

    def warm(self) -> None:
        """Load the backbones that the settings name, so that jobs do not wait for them, and measure their speed."""
        for name in self.settings.warm:
            space = catalog.resolve_space(name, None, Precision.EXACT, self.settings.weights_dir)
            backbone = self.models.get(space)
            batch = np.zeros((backbone.batch_size, 3, *space.preprocess.shape), np.uint8)
            backbone.embed(batch)  # the first one makes what later ones use
            started = time.monotonic()
            backbone.embed(batch)
            self.note_speed(space.fingerprint, len(batch), time.monotonic() - started)

    def claim(self, claimed_by: str, like: claim.Claim | None = None) -> list[claim.Claim]:
        """Claim the next work in the lane, for about `chunk_target_s`; nothing if it is not `like` a given claim."""
        preference = claim.Preference(
            after_owner=self.last_owner,
            most_images=self.images_per_claim(self._last_space),
            most_searches=MOST_SEARCHES,
            after_planning=self._has_planned,
            last_planned=self._last_planned,
            gathering=0 < self._planned < self._fill,
            warm=() if random.random() < BY_TURNS else self._warm,
            like=like,
        )
        claims = self.database.write(claim.claim, self.lane, claimed_by, self.settings, preference)
        if claims:
            self._has_planned = claims[0].kind == PLAN
            if self._has_planned:
                self._last_planned = claims[0].job_id
            else:
                self._planned = 0
            self.last_owner = claims[0].owner
            self._last_space = claims[0].space_id
        elif like is None:
            # what they are open for was cancelled, or is somebody else's
            self.walks.close()
        return claims

    def images_per_claim(self, space_id: str) -> int:
        """Return how many images of a space take about `chunk_target_s`, as measured."""
        speed = self._images_per_s.get(space_id)
        return FIRST_IMAGES if speed is None else max(1, int(speed * self.settings.chunk_target_s))

    def note_planned(self, images: int) -> None:
        """Count images that were planned and wait for a claim: while they do not fill a batch, they wait for more."""
        self._planned += images

    def note_speed(self, space_id: str, images: int, seconds: float) -> None:
        """Record that `images` of a space took `seconds`."""
        if images and seconds > 0:
            speed = images / seconds
            known = self._images_per_s.get(space_id, speed)
            self._images_per_s[space_id] = known + SMOOTHING * (speed - known)

    def lease(self, claims: Sequence[claim.Claim]) -> Lease:
        """Return a lease that keeps the claims during its block."""
        lease_s, renew_s = self.settings.lease_s, self.settings.renew_s
        return Lease(self.database, claims, lease_s=lease_s, renew_s=renew_s, leaving=self.leaving)

    def backbone(self, space_id: str) -> backbones.Backbone:
        """Return the backbone of a space, of an adapted one without its projection.

        Raises StillLoading if loading it takes a good part of a task's time, and WeightsUnavailable.
        """
        if space_id not in self._spaces:
            self._spaces[space_id] = catalog.Space.from_json(self.database.read(_description, space_id))
        return self.models.get(self._spaces[space_id].base, LOADING_PART * self.settings.soft_time_limit_s)

    @property
    def _warm(self) -> tuple[str, ...]:
        """The fingerprints of the spaces whose backbones are warm."""
        warm = self.models.warm
        adapted = (id for id, space in self._spaces.items() if space.projection and space.base.fingerprint in warm)
        return (*warm, *adapted)

    def _load(self, space: catalog.Space, settings: Settings) -> backbones.Backbone:
        started = time.monotonic()
        backbone = backbones.load(space, settings, device=self.device)
        seconds = time.monotonic() - started
        metrics.WORK.model_load_seconds.labels(space.backbone).observe(seconds)
        log.info("backbone_loaded", backbone=space.backbone, weights=space.weights, seconds=round(seconds, 2))
        return backbone

    @property
    def name(self) -> str:
        """The process's name in SQL."""
        return presence.name(self.lane, os.getpid())

    def close(self) -> None:
        """Close connections, and stop compiling."""
        self.tuner.close()
        self.walks.close()
        self.residents.close()
        self.doorbell.close()
        self.database.dispose()


def process_index() -> int:
    """Return this process's position among those of its worker, from 0; 0 if it is not a worker's child."""
    return current_process_index(base=0) or 0


def _description(session: Session, space_id: str) -> dict:
    return session.get_one(tables.Space, space_id).description
