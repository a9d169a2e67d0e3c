"""The demo's thirty pictures: furniture of three classes, two themes each, five pictures a theme."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

#: Holds the pictures and nothing else; `PROVENANCE.md` beside it says how they were drawn.
FOLDER = Path(__file__).parent / "pictures"


@dataclass(frozen=True)
class Picture:
    """One picture: its file, what it shows (`table`, `sofa`, `shelf`) and in which of the two themes of that class."""

    path: Path
    kind: str
    theme: str


def pictures() -> list[Picture]:
    """Return the thirty pictures, ordered by name."""
    return [Picture(path, *label(path.name)) for path in sorted(FOLDER.iterdir())]


def label(key: str) -> tuple[str, str]:
    """Return the class and the theme that a picture's key says, such as `table-dining-1.jpg`."""
    kind, theme, _number = PurePosixPath(key).stem.split("-")
    return kind, theme
