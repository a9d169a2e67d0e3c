"""Weights on the hub of Hugging Face: which file they are, and where it lies on this machine.

Nothing is asked of the hub that this machine has already. The library's own settings hold: `HF_HOME`, `HF_ENDPOINT`,
`HF_TOKEN`, and `HF_HUB_OFFLINE`, with which nothing is ever asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imagekin import errors
from imagekin.catalog import files

# What a repository of weights holds: the file without code in it first.
NAMES = ("model.safetensors", "pytorch_model.bin")

_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIMEOUT_S = 10.0


def placed(backbone: str, weights_dir: Path) -> Path | None:
    """Find the file that someone put below IMAGEKIN_WEIGHTS_DIR under a backbone's name; None without one."""
    found = (files.below(weights_dir, backbone + suffix) for suffix in (".safetensors", ".bin", ".pth"))
    return next((path for path in found if path is not None), None)


def cached(repository: str) -> Path | None:
    """Find a repository's weights in the hub's cache on this machine; None without them or without the library."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = (try_to_load_from_cache(repository, name) for name in NAMES)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def digest(backbone: str, repository: str, weights_dir: Path) -> str:
    """Return the SHA-256 of a backbone's weights: of the file that is here, or as the hub has it.

    Raises UnknownWeights, which says where to put the file, if it is not here and the hub cannot be asked.
    """
    path = placed(backbone, weights_dir) or cached(repository)
    if path is not None:
        return files.digest(path)
    found = _of_each(repository, _etag)
    if isinstance(found, str) and _SHA256.fullmatch(found):
        return found
    raise errors.UnknownWeights(
        f"The weights of {backbone} are not on this machine, and the hub did not say which they are ({found}). "
        f"{_advice(backbone, repository, weights_dir)}"
    )


def download(backbone: str, repository: str, weights_dir: Path) -> Path:
    """Download a repository's weights into the hub's cache.

    Raises WeightsUnavailable, which says where to put the file, if that fails.
    """
    found = _of_each(repository, _downloaded)
    if isinstance(found, str):
        return Path(found)
    raise errors.WeightsUnavailable(
        f"The weights of {backbone} are not on this worker and could not be downloaded ({found}). "
        f"{_advice(backbone, repository, weights_dir)}"
    )


def _etag(hub: Any, repository: str, name: str) -> str | None:
    return hub.get_hf_file_metadata(hub.hf_hub_url(repository, name), timeout=_TIMEOUT_S).etag


def _downloaded(hub: Any, repository: str, name: str) -> str:
    return hub.hf_hub_download(repository, name)


def _of_each(repository: str, ask: Callable[[Any, str, str], str | None]) -> str | Exception | None:
    """Ask for each name in turn until one is there; return what came, or why nothing did."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        return error
    failure: Exception | None = None
    for name in NAMES:
        try:
            return ask(huggingface_hub, repository, name)
        except Exception as error:  # noqa: BLE001 - its HTTP client's, too, which changed before: all mean no answer
            failure = error
            if isinstance(error, LocalEntryNotFoundError) or not isinstance(error, EntryNotFoundError):
                return error  # the other name would not be had either
    return failure


def _advice(backbone: str, repository: str, weights_dir: Path) -> str:
    return (
        f"Get model.safetensors of {repository} elsewhere and put it at {weights_dir / (backbone + '.safetensors')}, "
        "for the API and for the workers. With the extra `hub` (part of `timm`) and a way to the hub it is found by "
        "itself; some weights need HF_TOKEN, after their license is accepted there."
    )
