"""What every job needs: bytes that it names, and a request that makes it once, however often it is sent."""

from __future__ import annotations

import uuid
from typing import Any

from imagekin import schemas
from imagekin.client.bodies import Body
from imagekin.client.jobs import Job
from imagekin.client.transport import Transport

UPLOADED_EXTRA_S = 540  # a server that hashes and stores 20 GiB answers late


def upload(transport: Transport, body: Body) -> schemas.Upload:
    """Send a file as it is."""
    kind = {"content-type": "application/octet-stream"}
    return transport.post("/v1/uploads", schemas.Upload, body, headers=kind, extra_s=UPLOADED_EXTRA_S)


def job(transport: Transport, path: str, body: Body, key: str | None = None) -> Job[Any]:
    """Post a job, under an idempotency key of its own unless one is given."""
    headers = {"idempotency-key": key or str(uuid.uuid4())}
    return Job(transport, transport.post(path, schemas.Job, body, headers=headers))
