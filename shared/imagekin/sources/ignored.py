"""Why sources ignore what is no item, in sentences for whoever looks for a file."""

from __future__ import annotations

from imagekin import formats

HIDDEN = "It is hidden, or in a hidden folder."
LEFT_OUT = "It is left out by its name: by IMAGEKIN_LEFT_OUT, or because the job excludes it."
LINK = "It is a link that is not followed, or leads nowhere."
SPECIAL = "It is a link, a device or the like, and no regular file."


def no_picture(head: bytes) -> str:
    """Return the reason for a file that begins with `head` and is no picture."""
    return formats.refusal(head) if head else "The file is no picture by its name, and has nothing in it that tells."
