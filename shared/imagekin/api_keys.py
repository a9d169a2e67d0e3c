"""API keys: random texts, stored as digests; each key gives access to one owner."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import sql, tables

ADMIN = "admin"
LOCAL = "local"
KEY_PREFIX = "ik_"
KEY_BYTES = 32
# A row is written at most this often for a key in use.
USE_NOTED_EVERY_S = 3600
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")


def digest(key: str) -> str:
    """Return what is stored of a key: the SHA-256 of its text."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def create(session: Session, owner: str) -> tuple[tables.ApiKey, str]:
    """Create a key for `owner`; return its row and its text, which is shown only once. Raises InvalidRequest."""
    if not _OWNER.fullmatch(owner):
        raise errors.InvalidRequest("An owner is 1 to 128 letters, digits, `.`, `_`, `@` or `-`.")
    text = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    key = tables.ApiKey(owner=owner, digest=digest(text))
    session.add(key)
    session.flush()
    return key, text


def page(session: Session) -> list[tables.ApiKey]:
    """Return all keys, including revoked ones, oldest first."""
    return list(session.scalars(sa.select(tables.ApiKey).order_by(tables.ApiKey.id)))


def revoke(session: Session, key_id: str) -> tables.ApiKey:
    """Revoke a key at once; raises NotFound. Revoking it again is fine."""
    key = session.get(tables.ApiKey, key_id)
    if key is None:
        raise errors.NotFound("There is no key with that id; `imagekin keys list` shows them.")
    if key.revoked_at is None:
        key.revoked_at = session.scalars(sa.select(sql.clock())).one()
    return key


def find(session: Session, text: str) -> tuple[tables.ApiKey, bool] | None:
    """Return the valid key with that text and whether to record its use; None if no valid key has it."""
    row = session.execute(sa.select(tables.ApiKey, sql.clock()).filter_by(digest=digest(text), revoked_at=None)).first()
    if row is None:
        return None
    key, clock = row
    return key, is_unnoted(key, clock)


def is_unnoted(key: tables.ApiKey, clock: float) -> bool:
    """Return whether to record the use of a key at `clock`, the database's time in seconds since 1970."""
    return key.last_used_at is None or key.last_used_at < clock - USE_NOTED_EVERY_S


def note_use(session: Session, key_id: str) -> None:
    """Record that the key is in use."""
    session.execute(sa.update(tables.ApiKey).where(tables.ApiKey.id == key_id).values(last_used_at=sql.clock()))


def is_first_key(text: str, first_key: str) -> bool:
    """Return whether `text` is the key from the settings; False without such a key."""
    return bool(first_key) and hmac.compare_digest(digest(text), digest(first_key))
