"""Archives and compressed files by their first bytes: those that imagekin reads, and others that people send."""

from __future__ import annotations

from collections.abc import Sequence

HEAD_BYTES = 512
"""How many bytes of a file `unread` and `kind` need; with fewer they recognize less."""

ACCEPTED = "a zip, a tar or a tar.gz"

NAMED = 3
"""How many archives a message names."""

_SUFFIXES = (".zip", ".tar", ".gz", ".tgz")

_TAR_MAGIC_AT = 257
_READ = {b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"\x1f\x8b": "gzip"}
_UNREAD = {
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "RAR",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"\x04\x22\x4d\x18": "LZ4",
    b"LZIP": "lzip",
    b"\x1f\x9d": "compress",
    b"\x1f\xa0": "compress",
    b"MSCF": "cabinet",
    b"xar!": "xar",
    b"!<arch>\n": "ar",
    b"070701": "cpio",
    b"070707": "cpio",
    b"PK\x07\x08": "split zip",
    b"SIT!": "StuffIt",
    b"StuffIt": "StuffIt",
    b"\x5d\x00\x00": "LZMA",
}


def unread(head: bytes) -> str | None:
    """Return the kind of archive that starts with `head` and that imagekin does not read, or None."""
    if head[2:7] in (b"-lh5-", b"-lh6-", b"-lh7-", b"-lh0-"):
        return "LHA"
    return next((kind for magic, kind in _UNREAD.items() if head.startswith(magic)), None)


def kind(head: bytes) -> str | None:
    """Return the kind of archive or compressed file that starts with `head`, or None for any other file."""
    read = next((kind for magic, kind in _READ.items() if head.startswith(magic)), None)
    if read is None and head[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar":
        return "tar"
    return read or unread(head)


def looks_like_archive(name: str, head: bytes) -> bool:
    """Return whether a file with this name, whose content starts with `head`, is an archive of pictures, say.

    Documents are zips as well, so of those that are read the name counts.
    """
    return name.lower().endswith(_SUFFIXES) or unread(head) is not None


def only_archives(where: str, names: Sequence[str], advice: str) -> str:
    """Return a sentence that `where`, capitalized, has archives and no pictures; `names` are the first of them."""
    shown = ", ".join(names[:NAMED]) + (", …" if len(names) >= NAMED else "")
    return f"{where} holds no image but archives ({shown}), and what is in them is not read; {advice}, as {ACCEPTED}."


def refusal(what: str, kind: str) -> str:
    """Return a sentence that says that `what`, capitalized, is an archive that is not read, and what to send."""
    return f"{what} is a {kind} file, which imagekin does not read; unpack it and send {ACCEPTED}, or a folder."
