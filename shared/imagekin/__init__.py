"""Find an image's kin: the client of the imagekin service.

    from imagekin import Client

The names below are loaded when they are first used, so that `import imagekin` costs nothing.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagekin.client import Client, Job, Vectors
    from imagekin.errors import ImagekinError

    __version__: str

_HOMES = {
    "Client": "imagekin.client",
    "Job": "imagekin.client",
    "Vectors": "imagekin.client",
    "ImagekinError": "imagekin.errors",
}

__all__ = ["Client", "ImagekinError", "Job", "Vectors", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value = metadata.version("imagekin")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
