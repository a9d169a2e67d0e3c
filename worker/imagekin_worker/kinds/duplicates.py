"""Duplicates jobs: which images are near-duplicates of which, and which to keep, in slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.jobs import fence
from imagekin.jobs.claim import Claim
from imagekin.store import images, verdicts
from imagekin_worker.analysis import stepper
from imagekin_worker.analysis.duplicates import Duplicates, Other, Verdict
from imagekin_worker.analysis.findings import Found, Group, Member
from imagekin_worker.analysis.groups import Images
from imagekin_worker.analysis.neighborhoods import LISTED
from imagekin_worker.analysis.prints import Prints
from imagekin_worker.analysis.stepper import Stepper
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.process_state import Node
from imagekin_worker.kinds import lists, signs
from imagekin_worker.kinds import pinned as pins
from imagekin_worker.kinds.pinned import Pinned
from imagekin_worker.matrix.view import View
from imagekin_worker.network.devices import cores

# Formats whose pixels are those that were saved.
LOSSLESS = frozenset({"BMP", "PNG", "TIFF"})
# What the signs of a picture and the comparison of two images cost, about: for a share of the progress alone.
PRINT_S, COMPARED_S = 1.3e-3, 1e-8


@dataclass(frozen=True)
class Scene:
    """The images that are looked at, by key, those of another collection after ours, and what is known of them.

    `sizes` (n, 2): width and height, 0 where unknown. `values` (n): what their metadata have under the name asked for.
    """

    ids: list[str]
    keys: list[str]
    contents: list[str]
    sizes: NDArray[np.int64]
    lossless: NDArray[np.bool_]
    nbytes: NDArray[np.int64]
    metadata: NDArray[np.int64]
    created: NDArray[np.float64]
    values: list[Any]

    def images(self, span: slice, hashes: NDArray[np.uint64], mirrors: NDArray[np.uint64]) -> Images:
        """Return the images of a span with their hashes (n,) and mirrors (n,), as the search expects them."""
        return Images(
            self.keys[span],
            self.contents[span],
            hashes[span],
            mirrors[span],
            self.sizes[span].prod(1),
            self.lossless[span],
            self.nbytes[span],
            self.metadata[span],
            self.created[span],
        )


class Search(Stepper):
    """Takes the signs of all pictures, then finds the duplicates by them; `about`: what it all depends on."""

    def __init__(
        self,
        about: dict[str, Any],
        scene: Scene,
        prints: Prints,
        begun: Callable[[NDArray[np.uint64], NDArray[np.uint64]], Duplicates],
    ) -> None:
        self.about, self.scene, self.prints, self._begun = about, scene, prints, begun
        self._found: Duplicates | None = None
        n = len(scene.ids)
        self._share = PRINT_S / (PRINT_S + COMPARED_S * n)

    def restore(self, state: bytes) -> None:
        """Continue from what `state` has after `about`; raises JobError when it belongs to other images."""
        _, arrays = stepper.unpacked(state, (len(self.scene.ids), 0))
        self.prints.restore(arrays["prints"].tobytes())
        if "found" in arrays:
            self._found = self._started()
            self._found.restore(arrays["found"].tobytes())

    def state(self) -> bytes:
        """Return all progress: 17 bytes an image, and what the search for duplicates keeps."""
        arrays = {"prints": np.frombuffer(self.prints.state(), np.uint8)}
        if self._found is not None:
            arrays["found"] = np.frombuffer(self._found.state(), np.uint8)
        return pins.packed(self.about, stepper.packed({"shape": [len(self.scene.ids), 0]}, arrays))

    @property
    def finished(self) -> bool:
        return self._found is not None and self._found.finished

    @property
    def fraction(self) -> float:
        found = 0.0 if self._found is None else self._found.fraction
        return self._share * self.prints.fraction + (1 - self._share) * found

    def result(self) -> Found:
        """Return what was found; raises JobError before `advance` has returned True."""
        if self._found is None:
            raise errors.JobError("The search for duplicates is not finished.")
        return self._found.result()

    def _step(self) -> None:
        if not self.prints.finished:
            self.prints.advance(until=lambda: True)
        elif self._found is None:
            self._found = self._started()
        else:
            self._found.advance(until=lambda: True)

    def _started(self) -> Duplicates:
        hashes, mirrors, _ = self.prints.result()
        return self._begun(hashes, mirrors)


class FindDuplicates(pins.Analysis[Search]):
    """`against` is the id of another collection, None without one."""

    def __init__(self, node: Node, claim: Claim, params: dict[str, Any], against: str | None) -> None:
        self._node, self._claim, self._params, self._against = node, claim, params, against
        self.having = params["between"]

    def about(self) -> dict[str, Any]:
        # progress of a service that made no lists begins again
        return {"listed": LISTED}

    def begin(self, pinned: Pinned, view: View) -> Search:
        return self._search(pinned, view, self._other(None))

    def resume(self, pinned: Pinned, view: View, state: bytes) -> Search:
        about, progress = pins.unpacked(state)
        other = self._other(about["against"])
        if other is not None and other.about != about["against"]:
            # the other collection changed: it starts over
            return self._search(pinned, view, self._other(None))
        # verdicts that came since are for later jobs
        search = self._search(pinned, view, other, about["verdicts"])
        search.restore(progress)
        return search

    def _other(self, about: dict[str, Any] | None) -> Pinned | None:
        """Return the collection that is compared with, as `about` says or as it is."""
        if self._against is None:
            return None
        revision = None if about is None else about["revision"]
        try:
            return pins.pin(self._node, self._claim, revision, collection_id=self._against)
        except errors.CollectionDeleted as deleted:
            raise errors.InvalidRequest("The collection to compare with was deleted.") from deleted

    def _search(
        self, pinned: Pinned, view: View, other: Pinned | None, given: list[tuple[str, str, bool]] | None = None
    ) -> Search:
        """Return the search from the start; `given`: the verdicts that it obeys, by default those of now."""
        database = self._node.database
        scene = database.read(_scene, [pinned, *([] if other is None else [other])], self.having)
        obeyed = database.read(_verdicts, self._claim.owner, scene.contents) if given is None else given
        prints = signs.of(self._node, scene.ids)
        settings, n = self._node.settings, len(pinned.ids)

        def begun(hashes: NDArray[np.uint64], mirrors: NDArray[np.uint64]) -> Duplicates:
            theirs = slice(n, len(scene.ids))
            return Duplicates(
                pinned.rows,
                view,
                scene.images(slice(0, n), hashes, mirrors),
                thumbnails=prints.grays,
                memory_budget_bytes=settings.cluster_memory_bytes,
                folder=settings.cache_folder,
                threshold=self._params["threshold"],
                against=None if other is None else Other(other.rows, scene.images(theirs, hashes, mirrors)),
                between=None if self.having is None else scene.values,
                verdicts=[Verdict(*each) for each in obeyed],
                memory=lists.of(self._node, self._claim, view),
                threads=cores(),
            )

        about = {"against": None if other is None else other.about, "verdicts": obeyed}
        return Search(about, scene, prints, begun)

    def conclude(self, pinned: Pinned, work: Search) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
        found, shown = work.result(), Shown(work)
        summary = {
            "threshold": round(found.threshold, 6),
            "median_distance": None if found.median_distance is None else round(found.median_distance, 6),
            "images": found.images,
            "duplicates": found.duplicates,
            "group_count": len(found.groups),
            "by_reason": found.by_reason,
            "look": [
                {
                    "score": pair.score,
                    "hash_bits": shown.bits(pair.a, pair.b, pair.hash_bits),
                    **shown.pair(pair.a, pair.b),
                }
                for pair in found.look
            ],
            "histogram": {"edges": found.edges, "counts": found.counts},
            "examples": [{"score": pair.score, **shown.pair(pair.a, pair.b)} for pair in found.examples],
        }
        return summary, (shown.group(number, group) for number, group in enumerate(found.groups))


class Shown:
    """How results name images: by ids and keys, and without the signs of missing pictures."""

    def __init__(self, work: Search) -> None:
        self._scene, self._seen = work.scene, work.prints.result()[2]

    def group(self, number: int, group: Group) -> dict[str, Any]:
        """Return a row of the result."""
        keep = {**self._named(group.keep), "because": group.because}
        members = [self._member(group, member) for member in group.members]
        return {"group": number, "size": len(members), "keep": keep, "members": members}

    def pair(self, a: int, b: int) -> dict[str, str]:
        """Return the names of two images."""
        ids, keys = self._scene.ids, self._scene.keys
        return {"a": ids[a], "b": ids[b], "a_key": keys[a], "b_key": keys[b]}

    def bits(self, a: int, b: int, bits: int) -> int | None:
        """Return in how many bits the hashes of two pictures differ."""
        return bits if a == b or (self._seen[a] and self._seen[b]) else None

    def _named(self, row: int) -> dict[str, Any]:
        return {"id": self._scene.ids[row], "key": self._scene.keys[row]}

    def _member(self, group: Group, member: Member) -> dict[str, Any]:
        width, height = self._scene.sizes[member.row].tolist()
        bits = self.bits(group.keep, member.row, member.hash_bits)
        return {
            **self._named(member.row),
            "score": member.score,
            "reason": member.reason,
            "hash_bits": bits,
            "correlation": None if bits is None else member.correlation,
            "width": width or None,
            "height": height or None,
        }


def run(node: Node, claims: Sequence[Claim], lease: Lease) -> None:
    """Look for near-duplicates for a slice; the last one writes the result.

    Raises InvalidRequest if no image is left to look at or the other collection is gone, JobError where there are
    more pairs than memory for them, CollectionDeleted and LeaseLost.
    """
    (claim,) = claims
    job = node.database.read(fence.job_of, claim)
    pins.run(node, claim, lease, job.params, FindDuplicates(node, claim, job.params, job.work["against"]))


def _verdicts(session: Session, owner: str, contents: list[str]) -> list[tuple[str, str, bool]]:
    return list(verdicts.among(session, owner, set(contents)))


def _scene(session: Session, pinned: Sequence[Pinned], field: str | None) -> Scene:
    """Return what is known of the images of collections; of one that was replaced since, what is known now."""
    ids = [id for one in pinned for id in one.ids]
    n = len(ids)
    # the same id is in one collection only
    names = np.array(ids, "S")
    order = np.argsort(names)
    scene = Scene(
        ids,
        [key for one in pinned for key in one.keys],
        # one that is forgotten has content of its own
        list(ids),
        np.zeros((n, 2), np.int64),
        np.zeros(n, np.bool_),
        np.full(n, -1),
        np.zeros(n, np.int64),
        np.zeros(n),
        [None] * (0 if field is None else n),
    )
    for image in images.facts(session, ids):
        row = int(order[np.searchsorted(names, image.id.encode(), sorter=order)])
        scene.contents[row] = image.content_hash
        scene.sizes[row] = image.width or 0, image.height or 0
        scene.lossless[row] = image.format in LOSSLESS
        scene.nbytes[row] = -1 if image.nbytes is None else image.nbytes
        scene.metadata[row] = len(image.metadata_)
        scene.created[row] = image.created_at
        if field is not None:
            scene.values[row] = image.metadata_.get(field)
    return scene
