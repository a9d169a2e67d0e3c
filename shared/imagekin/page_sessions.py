"""Sessions of the web page: a cookie in place of a key, for some hours and no longer than the key is valid.

The cookie's text is random and stored as a digest, as keys are. The page's token is made of the cookie's text, which no
script can read, so another page cannot make it, and it needs no place of its own.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import api_keys
from imagekin.database import sql, tables

PageSession, ApiKey = tables.PageSession, tables.ApiKey

COOKIE_BYTES = 32
# Of one key; the oldest end when there are more.
MOST_SESSIONS = 100
_TOKEN = b"imagekin page token"

# Made once: a screen of pictures asks for it dozens of times.
_VALID = (
    sa.select(PageSession.key_digest, ApiKey, sql.clock())
    .outerjoin(ApiKey, sa.and_(ApiKey.digest == PageSession.key_digest, ApiKey.revoked_at.is_(None)))
    .where(PageSession.digest == sa.bindparam("cookie"), PageSession.expires_at > sql.clock())
)


@dataclass(frozen=True, slots=True)
class Found:
    """A valid session: its owner, and the id of its key unless the key's use was recorded lately."""

    owner: str
    unnoted_key: str | None


def begin(session: Session, key: str, ttl_s: float) -> str:
    """Begin a session of the holder of a valid key, for `ttl_s` seconds; return the text of its cookie."""
    key_digest, text = api_keys.digest(key), secrets.token_urlsafe(COOKIE_BYTES)
    newest = sa.select(PageSession.digest).filter_by(key_digest=key_digest).order_by(PageSession.expires_at.desc())
    past = newest.offset(MOST_SESSIONS - 1).subquery()
    session.execute(sa.delete(PageSession).where(PageSession.digest.in_(sa.select(past.c.digest))))
    session.add(PageSession(digest=api_keys.digest(text), key_digest=key_digest, expires_at=sql.clock() + ttl_s))
    return text


def find(session: Session, text: str, first_key: str) -> Found | None:
    """Return the session with that cookie; None if it does not exist, has expired, or its key is not valid."""
    row = session.execute(_VALID, {"cookie": api_keys.digest(text)}).first()
    if row is None:
        return None
    key_digest, key, clock = row
    if first_key and hmac.compare_digest(key_digest, api_keys.digest(first_key)):
        return Found(api_keys.ADMIN, None)
    return None if key is None else Found(key.owner, key.id if api_keys.is_unnoted(key, clock) else None)


def end(session: Session, text: str) -> None:
    """End the session with that cookie, if there is one."""
    session.execute(sa.delete(PageSession).where(PageSession.digest == api_keys.digest(text)))


def token(text: str) -> str:
    """Return the token of the page whose session has that cookie."""
    made = hmac.digest(text.encode("utf-8", "surrogatepass"), _TOKEN, hashlib.sha256)
    return base64.urlsafe_b64encode(made).decode().rstrip("=")
