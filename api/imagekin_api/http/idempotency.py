"""`Idempotency-Key`: a request's key and digest; `imagekin.jobs.submit` finds the job that was made under them.

The same request under the same key is the same job. "Same": canonical JSON with uploads counted by their sha256; for
multipart the ordered (field, filename, sha256).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import flask

from imagekin import errors

HEADER = "Idempotency-Key"
MAX_KEY_CHARS = 255


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A key, None if the client did not send one, and the digest of the request."""

    key: str | None
    digest: str | None

    @classmethod
    def of_json(cls, body: Any, sha256_by_upload: dict[str, str] | None = None) -> Idempotency:
        """Read the key of a request with a JSON body."""
        key = read_key()
        return cls(key, key and _digest(["json", _by_content(body, sha256_by_upload or {})]))

    @classmethod
    def of_parts(cls, parts: Iterable[tuple[str, str | None, str]]) -> Idempotency:
        """Read the key of a request with a multipart body: (field, filename, sha256) in their order."""
        key = read_key()
        return cls(key, key and _digest(["multipart", [list(part) for part in parts]]))


def read_key() -> str | None:
    """Return the request's key; raises InvalidRequest if it is too long or not printable ASCII."""
    key = flask.request.headers.get(HEADER)
    if key is None:
        return None
    if not (0 < len(key) <= MAX_KEY_CHARS and key.isascii() and key.isprintable()):
        detail = f"{HEADER} must be 1 to {MAX_KEY_CHARS} printable ASCII characters."
        raise errors.InvalidRequest(detail, errors=[{"pointer": f"/{HEADER}", "in": "header", "detail": detail}])
    return key


def _digest(body: Any) -> str:
    # the path too: one key may not stand for a search and a clustering
    canonical = json.dumps([flask.request.path, body], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _by_content(body: Any, sha256_by_upload: dict[str, str]) -> Any:
    source = body.get("source") if isinstance(body, dict) else None
    if not isinstance(source, dict) or source.get("upload_id") not in sha256_by_upload:
        return body
    return {**body, "source": {**source, "upload_id": {"sha256": sha256_by_upload[source["upload_id"]]}}}
