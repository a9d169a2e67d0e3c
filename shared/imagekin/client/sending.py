"""Pictures to the service, hashes first: what the collection has is not sent, the rest goes in bounded parts.

Each part becomes a job as soon as it is there, so that workers embed while the next one is on its way, and so that an
interrupted upload has lost one part at most. Run again, it asks what the collection has by then, and joins the jobs
that are still at work. Every upload has a job: where all is there, that of one small picture.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, TypeVar
from urllib.parse import quote

from imagekin import errors, schemas
from imagekin.client import bodies, posting, uploads
from imagekin.client.groups import JobGroup, Sending
from imagekin.client.jobs import Job
from imagekin.client.transport import Transport
from imagekin.client.uploads import Hashed
from imagekin.enums import OnConflict
from imagekin.schemas import keys

# Called as an upload goes on, with the same object each time.
Watch = Callable[[Sending], None]

T = TypeVar("T")


class Sender:
    """Sends pictures into one collection."""

    def __init__(
        self, transport: Transport, collection: str, on_conflict: OnConflict | str | None, watch: Watch | None
    ) -> None:
        self._transport = transport
        self._collection = collection
        self._on_conflict = on_conflict
        self._watch = watch or (lambda _sending: None)
        self._sending = Sending(0, 0)

    def send(self, files: uploads.Folder | uploads.Listing) -> JobGroup:
        """Send what the collection lacks, and give the jobs; raises `EmptySource`."""
        count, size = uploads.measure(files)
        sending = self._sending = Sending(count, size)
        self._watch(sending)
        part: list[Hashed] = []
        rest: list[Hashed] = []
        with closing(uploads.parts(files)) as parts:
            for part in parts:
                missing = self._missing(part)
                # a part that went whole has a name to find its job by
                earlier = self._earlier(part) if missing else None
                if earlier is not None and not earlier.terminal:
                    self._join(earlier, part)
                    continue
                sending.known += len(part) - len(missing)
                sending.known_bytes += _size(part) - _size(missing)
                self._watch(sending)
                if missing and len(missing) == len(part):
                    self._post(part, None if earlier else self._name(part))
                elif missing:
                    if (
                        _size(rest) + _size(missing) > uploads.PART_BYTES
                        or len(rest) + len(missing) > uploads.PART_FILES
                    ):
                        self._post(rest)
                        rest = []
                    rest += missing
        if part and not sending.jobs and not rest:
            # where all is there one picture goes yet, and is `reused`: a run leaves a job to look at
            rest = [min(part, key=lambda each: each.size)]
            sending.known -= 1
            sending.known_bytes -= rest[0].size
        if rest:
            self._post(rest)
        return JobGroup(self._transport, self._collection, sending)

    def _missing(self, part: Sequence[Hashed]) -> list[Hashed]:
        contents = [(each.file.key, each.content_hash) for each in part if each.content_hash]
        there = known(self._transport, self._collection, contents)
        return [each for each in part if each.content_hash is None or each.file.key not in there]

    def _earlier(self, part: Sequence[Hashed]) -> Job[schemas.EmbedResult] | None:
        named = {"idempotency_key": self._name(part), "collection": self._collection}
        found = next(self._transport.pages("/v1/jobs", schemas.Job, **named), None)
        return Job(self._transport, found) if found else None

    def _name(self, part: Sequence[Hashed]) -> str:
        """Name a part by all that makes its job: another run that comes to the same finds it there."""
        made_of: list[Any] = [self._collection, str(self._on_conflict)]
        made_of += [[each.file.key, each.content_hash] for each in part]
        return f"upload-{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()}"

    def _join(self, job: Job[schemas.EmbedResult], part: Sequence[Hashed]) -> None:
        self._sending.jobs.append(job)
        self._sending.joined += len(part)
        self._sending.joined_bytes += _size(part)
        self._watch(self._sending)

    def _post(self, part: Sequence[Hashed], name: str | None = None) -> None:
        sending, before = self._sending, self._sending.sent_bytes

        def sent(count: int) -> None:
            sending.sent_bytes = before + count
            self._watch(sending)

        body = bodies.of_pieces(lambda: uploads.tar(each.file for each in part), sent)
        upload = self._patiently(lambda: posting.upload(self._transport, body))
        source = {"type": "upload", "upload_id": upload.id, "named": True}
        request = bodies.json(
            schemas.EmbedBody, collection=self._collection, source=source, on_conflict=self._on_conflict
        )
        job = self._patiently(lambda: posting.job(self._transport, "/v1/jobs/embed", request, name))
        sending.jobs.append(job)
        sending.sent += len(part)
        self._watch(sending)

    def _patiently(self, call: Callable[[], T]) -> T:
        """Wait for earlier jobs, oldest first, if the server has no room for another."""
        while True:
            try:
                return call()
            except (errors.QuotaExceeded, errors.Backlog):
                unfinished = next((job for job in self._sending.jobs if not job.terminal), None)
                if unfinished is None:
                    raise
                unfinished.wait()


def watched(files: int, size: int, watch: Watch) -> bodies.Sent:
    """Return the callback for a body of this many files and bytes; it takes the bytes sent so far."""
    sending = Sending(files, size)
    watch(sending)

    def sent(count: int) -> None:
        sending.sent_bytes = count
        watch(sending)

    return sent


def known(transport: Transport, collection: str, contents: Sequence[tuple[str, str]]) -> set[str]:
    """Return which keys the collection has with exactly this content; at most `schemas.MAX_CONTENTS` pairs."""
    images = [{"key": key, "content_hash": content_hash} for key, content_hash in contents if _askable(key)]
    if not images:
        return set()
    path = f"/v1/collections/{quote(collection, safe='')}/images/known"
    answer = transport.post(path, schemas.KnownImages, bodies.json(schemas.KnownBody, images=images))
    return {image.key for image in answer.items}


def _size(part: Sequence[Hashed]) -> int:
    return sum(each.size for each in part)


def _askable(key: str) -> bool:
    try:
        return keys.normalize(key) == key
    except errors.InvalidKey:
        return False
