"""Which tests run in one of pytest-xdist's processes, and in which order: what they share is started once."""

from __future__ import annotations

from typing import Any

import pytest

# The tests of each of these folders share what takes long to start or to compute: a service, a cluster, embeddings.
# The other files go wherever there is room. What takes longest begins first.
SHARING = ("tests/browser/", "tests/e2e/service/", "tests/faults/", "tests/integration/photographs/")
ORDER = (*SHARING, "tests/e2e/", "tests/contract/", "tests/integration/")


def order(items: list[pytest.Item]) -> None:
    """Sort tests in place, without tearing files apart."""
    items.sort(key=lambda item: _rank(item.nodeid))


def _rank(nodeid: str) -> int:
    return next((rank for rank, start in enumerate(ORDER) if nodeid.startswith(start)), len(ORDER))


def scope(nodeid: str) -> str:
    """Return what keeps tests together: the folder of those that share something, else the file."""
    return next((folder for folder in SHARING if nodeid.startswith(folder)), nodeid.split("::", 1)[0])


def scheduler(config: pytest.Config, log: Any) -> Any:
    """Return pytest-xdist's scheduler of whole scopes, in the order that was collected."""
    from xdist.scheduler import LoadScopeScheduling

    class Scopes(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope(nodeid)

    config.option.loadscopereorder = False
    return Scopes(config, log)
