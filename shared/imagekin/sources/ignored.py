"""Why sources ignore files, in sentences for people who look for one."""

from __future__ import annotations

from imagekin import archive_kinds, errors, formats

HIDDEN = "It is hidden, or in a hidden folder."
LEFT_OUT = "It is left out by its name: by IMAGEKIN_LEFT_OUT, or because the job excludes it."
LINK = "It is a link that is not followed, or leads nowhere."
SPECIAL = "It is a link, a device or the like, and no regular file."


def no_picture(head: bytes) -> str:
    """Return the reason for a file that begins with `head` and is not a picture."""
    return formats.refusal(head) if head else "The file is not a picture by its name, and its content shows none."


class Archives:
    """The archives among what is ignored: a source that holds no picture but them is told what to do."""

    def __init__(self, where: str, advice: str) -> None:
        self._where, self._advice = where, advice
        self._names: list[str] = []

    def note(self, name: str, head: bytes) -> None:
        """Record a file that is not a picture."""
        if len(self._names) < archive_kinds.NAMED and archive_kinds.looks_like_archive(name, head):
            self._names.append(name)

    def check(self, images: int) -> None:
        """Raise EmptySource if there were no images, but archives."""
        if self._names and not images:
            raise errors.EmptySource(archive_kinds.only_archives(self._where, self._names, self._advice))
