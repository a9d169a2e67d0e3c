"""The error tree as its module draws it, which pins the names, codes and statuses that programs rely on."""

from __future__ import annotations

from collections.abc import Iterator

from imagekin import errors
from imagekin.errors import ImagekinError


def drawn(error: type[ImagekinError], branch: str = "", trunk: str = "") -> Iterator[str]:
    """Yield the lines of a tree: name, code and status of an error and of those below it."""
    yield f"    {branch + error.__name__:<32}{error.code:<22}{error.http_status}"
    below = [each for each in error.__subclasses__() if each.__module__ == errors.__name__]
    for each in below:
        last = each is below[-1]
        yield from drawn(each, trunk + ("└── " if last else "├── "), trunk + ("    " if last else "│   "))


def test_the_module_draws_its_whole_tree() -> None:
    assert "\n".join(drawn(ImagekinError)) in (errors.__doc__ or "")


def test_every_error_of_the_module_is_in_the_tree() -> None:
    public = {name for name, value in vars(errors).items() if getattr(value, "__module__", None) == errors.__name__}
    assert public == {line.split()[-3] for line in drawn(ImagekinError)}
