"""What the client needs, and what its package shows."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from imagekin.client import uploads
from kit.fake_server import FakeServer

_ALONE = """
import sys
sys.path.insert(0, sys.argv[1])
import imagekin
assert "httpx2" not in sys.modules and "pydantic" not in sys.modules, "import imagekin is not cheap"
import numpy as np
with imagekin.Client(sys.argv[2]) as client:
    job = client.embed(sys.argv[3], "c", upload=True)
    assert job.wait(progress=True).status == "succeeded"
    found = client.search(embedding=np.array([1, 2], np.float32), collection="c")
    assert [neighbor.key for neighbor in found.neighbors] == ["a"]
    assert client.vectors("c").embeddings.shape == (2, 4)
from imagekin.cli import main
sys.argv[1:] = ["--url", sys.argv[2], "collections", "list"]
main()
"""


def _closure(name: str, found: dict[str, metadata.Distribution]) -> dict[str, metadata.Distribution]:
    """Add a distribution and all that it needs, extras left out, as an installer does."""
    if name not in found:
        found[name] = metadata.distribution(name)
        for requirement in map(Requirement, found[name].requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                _closure(canonicalize_name(requirement.name), found)
    return found


def test_the_client_works_with_its_own_dependencies_alone(server: FakeServer, photos: Path, tmp_path: Path) -> None:
    """In an environment as `pip install imagekin` makes it: what is there is linked, and Python finds nothing else."""
    neighbor = {"rank": 1, "id": "i1", "key": "a", "score": 0.9, "metadata": {}}
    server.results["search"] = {"query": {}, "top_k": 2, "neighbors": [neighbor]}
    packages = tmp_path / "packages"
    packages.mkdir()
    for name, distribution in _closure("imagekin", {}).items():
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(str(distribution.locate_file(top)))
        assert name == "imagekin" or distribution.files
    if not (packages / "imagekin").exists():
        (packages / "imagekin").symlink_to(Path(uploads.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _ALONE, str(packages), server.url, str(photos)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith("c\t0\t")
    assert not {"torch", "flask", "celery", "sqlalchemy", "PIL"} & {path.name for path in packages.iterdir()}


def test_the_package_tells_type_checkers_that_it_is_typed() -> None:
    assert (Path(uploads.__file__).parents[1] / "py.typed").is_file()


def test_public_names() -> None:
    import imagekin
    from imagekin import client

    assert imagekin.__all__ == ["Client", "ImagekinError", "Job", "Vectors", "__version__"]
    assert all(hasattr(imagekin, name) for name in imagekin.__all__)
    assert client.__all__ == [
        "Client",
        "Job",
        "JobGroup",
        "Sending",
        "Unreachable",
        "UnreadableAnswer",
        "Vectors",
        "WaitTimeout",
    ]
    assert all(hasattr(client, name) for name in client.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = imagekin.nothing
