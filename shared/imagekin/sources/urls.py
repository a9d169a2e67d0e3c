"""A list of addresses as a source: what came in the request is kept as a manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from imagekin import errors
from imagekin.schemas import MAX_URLS, keys
from imagekin.settings import Settings
from imagekin.sources import manifest
from imagekin.sources.base import Source
from imagekin.sources.lines import MAX_LINE_BYTES
from imagekin.uploads.files import Storage


def check(spec: Mapping[str, Any], settings: Settings) -> None:
    """Check the `urls` of a request: `{"url", "key"?, "metadata"?}` each; raises InvalidRequest and InvalidKey.

    What an address leads to is found out when it is fetched.
    """
    urls = spec.get("urls")
    if not isinstance(urls, list) or not 1 <= len(urls) <= MAX_URLS:
        raise _invalid("/source/urls", f"A source of type 'urls' has 1 to {MAX_URLS:,} of them; send a manifest.")
    for at, item in enumerate(urls):
        pointer = f"/source/urls/{at}"
        if not isinstance(item, dict) or not isinstance(item.get("url"), str):
            raise _invalid(f"{pointer}/url", "Each of the urls needs a `url`, a text.")
        if item.get("key") is not None:
            try:
                keys.normalize(item["key"])
            except errors.InvalidKey as error:
                detail = {"pointer": f"{pointer}/key", "detail": error.detail}
                raise errors.InvalidKey(error.detail, errors=[detail]) from None
        if len(_line(item)) > MAX_LINE_BYTES:
            raise _invalid(f"{pointer}/metadata", f"It has more than {MAX_LINE_BYTES:,} bytes as JSON.")


def written(urls: Iterable[Mapping[str, Any]]) -> bytes:
    """Return checked urls as the manifest that `open_source` reads."""
    return b"".join(_line(item) + b"\n" for item in urls)


def open_source(spec: Mapping[str, Any], storage: Storage, settings: Settings) -> Source:
    """Open the manifest at `path` in storage; raises as that of a manifest does."""
    return manifest.open_source(spec, storage, settings)


def _line(item: Mapping[str, Any]) -> bytes:
    return json.dumps(item, ensure_ascii=False, separators=(",", ":")).encode()


def _invalid(pointer: str, detail: str) -> errors.InvalidRequest:
    return errors.InvalidRequest(detail, errors=[{"pointer": pointer, "detail": detail}])
