"""An embed job from any source: the files are sent, or named if the service reads them itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from imagekin import errors, schemas
from imagekin.client import bodies, posting, uploads
from imagekin.client.bodies import Sent
from imagekin.client.groups import JobGroup, Sending
from imagekin.client.jobs import Job
from imagekin.client.sending import Sender, Watch, watched
from imagekin.client.sources import Archive, Location, Manifest, One, Picture, Several, Source, Urls
from imagekin.client.transport import Transport
from imagekin.client.uploads import Folder, Listing
from imagekin.enums import OnConflict

PATH = "/v1/jobs/embed"


@dataclass(frozen=True)
class Request:
    """An embed job without its source."""

    transport: Transport
    collection: str
    on_conflict: OnConflict | str | None = None
    callback_url: str | None = None
    idempotency_key: str | None = None
    watch: Watch | None = None

    def post(self, source: Source, upload: bool | None) -> Job[schemas.EmbedResult]:
        """Start the job or jobs; upload: True sends a folder, False never does, None if it must be."""
        if isinstance(source, Several):
            return self._post_several(source, upload)
        if isinstance(source, Picture):
            return self._post_picture(source)
        if isinstance(source, Location | Manifest) and source.prefixes:
            return self._post_by_prefix(source)
        if isinstance(source, Folder) and self._in_place(source, upload):
            try:
                return self._post({"type": "folder", "path": str(source.path.resolve()), **_excluded(source)})
            except errors.SourceRefused:
                if upload is False:
                    raise
        # a key or a callback stands for one job
        if isinstance(source, Folder | Listing) and self.idempotency_key is None and self.callback_url is None:
            return Sender(self.transport, self.collection, self.on_conflict, self.watch).send(source)
        return self._post(self._sent(source))

    def _in_place(self, folder: Folder, upload: bool | None) -> bool:
        """Return whether the server should read a folder; raises InvalidRequest if its path cannot be sent."""
        try:
            str(folder.path.resolve()).encode()
        except UnicodeEncodeError:
            if upload is False:
                detail = "The folder's path is not valid Unicode, so the server cannot find it; upload it instead."
                raise errors.InvalidRequest(detail) from None
            return False
        return self.transport.local if upload is None else not upload

    def _post_several(self, several: Several, upload: bool | None) -> Job[schemas.EmbedResult]:
        """Start a job for each archive, and those of the pictures beside them."""
        if self.idempotency_key is not None or self.callback_url is not None:
            raise errors.InvalidRequest(
                "An idempotency key or a callback stands for one job, and each archive makes one; embed them singly."
            )
        files = [each.path for each in several.sources if isinstance(each, Archive | Manifest)]
        sending = Sending(len(files), sum(path.stat().st_size for path in files), counted=False)
        watch = self.watch or (lambda _: None)
        for source in several.sources:
            before = sending.sent_bytes

            def sent(count: int, before: int = before) -> None:
                sending.sent_bytes = before + count
                watch(sending)

            if isinstance(source, Archive | Manifest):
                kind = "manifest" if isinstance(source, Manifest) else "upload"
                upload_id = self._upload(bodies.of_file(source.path, sent))
                sending.jobs.append(self._post({"type": kind, "upload_id": upload_id, **_excluded(source)}))
                sending.sent += 1
            else:
                sending.add(self._group_of(source, upload))
            watch(sending)
        return JobGroup(self.transport, self.collection, sending)

    def _post_by_prefix(self, source: Location | Manifest) -> Job[schemas.EmbedResult]:
        """Start a job for each prefix; a manifest is sent once."""
        count = len(source.prefixes)
        if count > 1 and (self.idempotency_key is not None or self.callback_url is not None):
            raise errors.InvalidRequest(
                "An idempotency key or a callback stands for one job, and each prefix makes one."
            )
        sent = self._sent(source)
        jobs = [self._post({**sent, "prefix": prefix}) for prefix in source.prefixes]
        if count == 1:
            return jobs[0]
        return JobGroup(self.transport, self.collection, Sending(count, 0, sent=count, jobs=jobs, counted=False))

    def _group_of(self, source: One, upload: bool | None) -> Sending:
        job = self.post(source, upload)
        return job.sending if isinstance(job, JobGroup) else Sending(0, 0, jobs=[job])

    def _post(self, source: dict[str, Any]) -> Job[schemas.EmbedResult]:
        body = bodies.json(schemas.EmbedBody, source=source, **self._fields())
        return posting.job(self.transport, PATH, body, self.idempotency_key)

    def _post_picture(self, picture: Picture) -> Job[schemas.EmbedResult]:
        given = {name: str(value) for name, value in self._fields().items() if value is not None}
        form = bodies.of_form("images", picture.path, bodies.name_of(picture.path), given)
        return posting.job(self.transport, PATH, form, self.idempotency_key)

    def _fields(self) -> dict[str, Any]:
        return {"collection": self.collection, "on_conflict": self.on_conflict, "callback_url": self.callback_url}

    def _sent(self, source: One) -> dict[str, Any]:
        """Send what has to be sent, and give the source that the job names."""
        match source:
            case Location():
                return {"type": "location", "url": source.url, **_excluded(source)}
            case Urls() if len(source.items) <= schemas.MAX_URLS:
                return {"type": "urls", "urls": source.items}
            case Urls():
                return {"type": "manifest", "upload_id": self._upload(bodies.of_file(source.manifest()))}
            case Manifest():
                return {"type": "manifest", "upload_id": self._upload_file(source)}
            case Archive() | Picture():
                return {"type": "upload", "upload_id": self._upload_file(source), **_excluded(source)}
            case Folder() | Listing():
                sent = self._watched(*uploads.measure(source))
                return {
                    "type": "upload",
                    "upload_id": self._upload(bodies.of_pieces(lambda: uploads.tar(source), sent)),
                    "named": True,
                }

    def _upload_file(self, source: Manifest | Archive | Picture) -> str:
        return self._upload(bodies.of_file(source.path, self._watched(1, source.path.stat().st_size)))

    def _upload(self, body: bodies.Body) -> str:
        return posting.upload(self.transport, body).id

    def _watched(self, count: int, size: int) -> Sent | None:
        """Give what a body is to call with the bytes sent so far."""
        return watched(count, size, self.watch) if self.watch else None


def _excluded(source: One) -> dict[str, Any]:
    return (
        {"exclude": list(source.exclude)} if isinstance(source, Folder | Location | Archive) and source.exclude else {}
    )
