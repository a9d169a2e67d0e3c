"""What lies in a storage of blobs, held against what the database says of it."""

from __future__ import annotations

import fsspec
import sqlalchemy as sa

from imagekin.database import tables
from imagekin.maintenance import upkeep
from imagekin.store import blobs
from kit.breakages import examine, found
from kit.hand import Hand


def there(url: str) -> set[str]:
    """Return the names of the blobs that are there."""
    fs, root = fsspec.url_to_fs(url)
    fs.invalidate_cache()
    return {path.rpartition(f"{root.rpartition('/')[2]}/")[2] for path in fs.find(root)}


def named(hand: Hand) -> set[str]:
    """Return the names of the blobs that rows name."""
    found: set[str] = set()
    for kind, table in ((blobs.Kind.VECTORS, tables.Segment), (blobs.Kind.THUMBNAILS, tables.Thumbnails)):
        query = sa.select(table.blob).where(table.blob.is_not(None))
        ids = hand.database.read(lambda session, query=query: session.scalars(query).all())
        found |= {f"{kind}/{id[-2:]}/{id}" for id in ids if id}
    return found


def inside(hand: Hand) -> list[int]:
    """Return how many bytes of vectors and of thumbnails are in the database."""
    sums = [sa.select(sa.func.sum(sa.func.length(table.data))) for table in (tables.Segment, tables.Thumbnails)]
    return [hand.database.read(lambda session, query=query: session.scalar(query) or 0) for query in sums]


def pass_hours(hand: Hand) -> None:
    """Let hours pass for what waits for the sweep."""
    hand.sql("UPDATE loose_blobs SET since = since - 7200")
    hand.sql("UPDATE segments SET created_at = created_at - 7200")


def settle(hand: Hand, url: str) -> None:
    """Let hours pass and the sweep work: what is there is what rows name, and the doctor finds nothing."""
    # what is compacted leaves blobs that wait for another hour
    for _ in range(2):
        pass_hours(hand)
        upkeep.Upkeep(hand.database, hand.storage).run(30)
    assert there(url) == named(hand)
    assert hand.count(tables.LooseBlob) == 0
    assert found(examine(hand)) == set()
