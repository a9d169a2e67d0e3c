"""Keys of images: the client's names, in one spelling."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from imagekin import errors

MAX_KEY_BYTES = 1024
# No character needs more than four code points decomposed, so a longer name has no NFC form that fits; and
# normalising very long runs of combining marks takes quadratic time.
_MAX_NAME_CHARS = 4 * MAX_KEY_BYTES
_DIGEST_CHARS = 16
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# In the encodings of East Asia (CP932, GBK, Big5, CP949), a backslash can be the second byte of a character.
_INNER_BACKSLASH = re.compile(rb"(?<=[\x80-\xff])\\")
# Latin-1 has control characters there, and a percent sign that could be read as one of ours is written as one.
_UNSHOWN = re.compile(rb"[\x80-\x9f]|(?<=[\x80-\xff])\\|%(?=[0-9A-Fa-f]{2})")
# A key as it is: of printable ASCII, without a backslash, and no part is empty, `.` or `..`.
_PLAIN_PART = r"(?!\.{1,2}(?:/|\Z))[ -.0-\[\]-~]+"
_PLAIN = re.compile(rf"(?:[A-Za-z][A-Za-z0-9+.-]+://)?{_PLAIN_PART}(?:/{_PLAIN_PART})*")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+://)?(.*)", re.DOTALL)


def is_plain(name: str) -> bool:
    """Return whether a name is a key as it is, told quickly: most are, and a list may have millions."""
    return len(name) <= MAX_KEY_BYTES and _PLAIN.fullmatch(name) is not None


def normalize(name: str) -> str:
    """Return `name` as a key: NFC, parts separated by `/`, at most 1,024 bytes of UTF-8; it may be a whole URL.

    Raises InvalidKey, with the reason, for a name that cannot be a key: too long, control characters, text that is
    not Unicode, an empty, `.` or `..` part (so a leading `/` too).
    """
    if is_plain(name):
        return name
    if len(name) > _MAX_NAME_CHARS:
        raise errors.InvalidKey(f"The key has {len(name):,} characters; at most {MAX_KEY_BYTES:,} bytes are allowed.")
    key = unicodedata.normalize("NFC", name).replace("\\", "/")
    if _CONTROL.search(key):
        raise errors.InvalidKey("The key contains a control character.")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise errors.InvalidKey("The key is not valid Unicode.") from None
    if size > MAX_KEY_BYTES:
        raise errors.InvalidKey(f"The key has {size:,} bytes; at most {MAX_KEY_BYTES:,} are allowed.")
    for part in split(key)[1].split("/"):
        if part in ("", ".", ".."):
            raise errors.InvalidKey(f"The key has the part {part!r}; empty, `.` and `..` parts are not allowed.")
    return key


def harmless(name: str) -> str:
    """Return a valid key that stands for any `name`, to show what `normalize` refuses.

    Empty, `.` and `..` parts drop out, control characters become U+FFFD, and a name that is too long ends in a digest
    of the whole, so that two long names stay two keys.
    """
    text = name[:_MAX_NAME_CHARS].encode("utf-8", "replace").decode().replace("\\", "/")
    text = unicodedata.normalize("NFC", _CONTROL.sub("\ufffd", text))
    scheme, path = split(text)
    key = scheme + ("/".join(part for part in path.split("/") if part not in ("", ".", "..")) or "unnamed")
    if len(name) <= _MAX_NAME_CHARS and len(key.encode()) <= MAX_KEY_BYTES:
        return key
    digest = "…" + hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:_DIGEST_CHARS]
    return key.encode()[: MAX_KEY_BYTES - len(digest.encode())].decode("utf-8", "ignore") + digest


def of_bytes(name: bytes) -> str:
    """Return a name of unknown encoding as text that no byte is lost from.

    UTF-8 where it is that; else Latin-1, with `%81` for a byte that is not a letter there and for a backslash inside of
    a character: `urllib.parse.unquote_to_bytes(text.encode("latin-1"))` gives the bytes back.
    """
    try:
        return name.decode()
    except UnicodeDecodeError:
        return _UNSHOWN.sub(lambda found: b"%%%02X" % found[0][0], name).decode("latin-1")


def of_zip_bytes(name: bytes) -> str:
    """Return a zip's name without a statement of its encoding as text that no byte is lost from.

    UTF-8 if it is valid UTF-8, even without the flag (macOS does not set it); else cp437, as APPNOTE.TXT has it, with
    `%5C` for a backslash inside of a character: `text.replace("%5C", "\\").encode("cp437")` gives the bytes back.
    """
    try:
        return name.decode()
    except UnicodeDecodeError:
        return _INNER_BACKSLASH.sub(b"%5C", name).decode("cp437")


def split(name: str) -> tuple[str, str]:
    """Return the scheme that a name begins with, such as `https://`, or nothing, and the rest."""
    match = _SCHEME.fullmatch(name)
    assert match is not None
    return match[1] or "", match[2]
