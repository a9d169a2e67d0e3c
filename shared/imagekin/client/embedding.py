"""An embed job from whatever it was given: sent, or named where the service reads it by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from imagekin import errors, schemas
from imagekin.client import bodies, posting, uploads
from imagekin.client.bodies import Sent
from imagekin.client.jobs import Job
from imagekin.client.sending import Sender, Watch, watched
from imagekin.client.sources import Archive, Location, Manifest, Picture, Source, Urls
from imagekin.client.transport import Transport
from imagekin.client.uploads import Folder, Listing
from imagekin.enums import OnConflict

PATH = "/v1/jobs/embed"


@dataclass(frozen=True)
class Request:
    """An embed job, but for its source."""

    transport: Transport
    collection: str
    on_conflict: OnConflict | str | None = None
    callback_url: str | None = None
    idempotency_key: str | None = None
    watch: Watch | None = None

    def post(self, source: Source, upload: bool | None) -> Job[schemas.EmbedResult]:
        """Start the job or jobs; upload: True sends a folder, False never does, None where it must be."""
        if isinstance(source, Picture):
            return self._post_picture(source)
        if isinstance(source, Folder) and (self.transport.local if upload is None else not upload):
            try:
                return self._post({"type": "folder", "path": str(source.path.resolve())})
            except errors.SourceRefused:
                if upload is False:
                    raise
        # a key or a callback stands for one job
        if isinstance(source, Folder | Listing) and self.idempotency_key is None and self.callback_url is None:
            return Sender(self.transport, self.collection, self.on_conflict, self.watch).send(source)
        return self._post(self._sent(source))

    def _post(self, source: dict[str, Any]) -> Job[schemas.EmbedResult]:
        body = bodies.json(schemas.EmbedBody, source=source, **self._fields())
        return posting.job(self.transport, PATH, body, self.idempotency_key)

    def _post_picture(self, picture: Picture) -> Job[schemas.EmbedResult]:
        given = {name: str(value) for name, value in self._fields().items() if value is not None}
        form = bodies.of_form("images", picture.path, picture.path.name, given)
        return posting.job(self.transport, PATH, form, self.idempotency_key)

    def _fields(self) -> dict[str, Any]:
        return {"collection": self.collection, "on_conflict": self.on_conflict, "callback_url": self.callback_url}

    def _sent(self, source: Source) -> dict[str, Any]:
        """Send what has to be sent, and give the source that the job names."""
        match source:
            case Location():
                return {"type": "location", "url": source.url}
            case Urls() if len(source.items) <= schemas.MAX_URLS:
                return {"type": "urls", "urls": source.items}
            case Urls():
                return {"type": "manifest", "upload_id": self._upload(bodies.of_file(source.manifest()))}
            case Manifest():
                return {"type": "manifest", "upload_id": self._upload_file(source)}
            case Archive() | Picture():
                return {"type": "upload", "upload_id": self._upload_file(source)}
            case Folder() | Listing():
                sent = self._watched(*uploads.measure(source))
                return {
                    "type": "upload",
                    "upload_id": self._upload(bodies.of_pieces(lambda: uploads.tar(source), sent)),
                }

    def _upload_file(self, source: Manifest | Archive | Picture) -> str:
        return self._upload(bodies.of_file(source.path, self._watched(1, source.path.stat().st_size)))

    def _upload(self, body: bodies.Body) -> str:
        return posting.upload(self.transport, body).id

    def _watched(self, count: int, size: int) -> Sent | None:
        """Give what a body is to call with the bytes sent so far."""
        return watched(count, size, self.watch) if self.watch else None
