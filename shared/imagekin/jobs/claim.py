"""Claims: which worker has which chunk, under leases, round-robin between owners."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import sql, tables
from imagekin.enums import ChunkStatus, JobStatus, Lane
from imagekin.schemas.kinds import PLAN, JobKind
from imagekin.settings import Settings

Chunk = tables.Chunk

# How many chunks one claim may hold: a bound on rows locked, not on images.
MOST_CHUNKS = 64
# What runs a network, and so waits for its weights where they are not in memory.
FORWARD = (JobKind.EMBED, JobKind.SEARCH)


@dataclass(frozen=True)
class Claim:
    """A chunk that is ours until its lease runs out. Finishing it names the attempt and the claimant."""

    job_id: str
    seq: int
    kind: str
    attempt: int
    claimed_by: str
    size: int
    owner: str
    collection_id: str
    space_id: str
    deaths: int


COLUMNS = (
    Chunk.job_id, Chunk.seq, Chunk.kind, Chunk.attempt, Chunk.claimed_by,
    Chunk.size, Chunk.owner, Chunk.collection_id, Chunk.space_id, Chunk.deaths,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Preference:
    """What a claimant would rather have than what comes next, and how much it takes at once.

    - `after_owner`: the owner whose turn was last.
    - `most_images`, `most_searches`: how many small chunks of one kind and space are claimed together.
    - `after_planning`: the claimant has just planned, so images come before more planning: a single worker does both
      in turn.
    - `last_planned`: the job that it planned last. The owner's next job is planned before that one continues, so that
      no source delays another.
    - `gathering`: what it planned does not fill its batches yet, so jobs that have not begun are planned first, and
      small ones share a batch.
    - `warm`: the spaces whose networks it has in memory; work of another space waits until theirs is done.
    - `like`: a claim that the next one is to join. If what comes next is of another kind or space, or killed a process
      before, nothing is claimed.
    """

    after_owner: str = ""
    most_images: int = 1
    most_searches: int = 1
    after_planning: bool = False
    last_planned: str = ""
    gathering: bool = False
    warm: Collection[str] = ()
    like: Claim | None = None


NO_PREFERENCE = Preference()


def claim(
    session: Session, lane: Lane, claimed_by: str, settings: Settings, preference: Preference = NO_PREFERENCE
) -> list[Claim]:
    """Take the next chunk of the next owner, and small ones of the same kind and space with it; [] if nothing is due.

    `claimed_by` must be new for each claim. Chunks that killed a process before are claimed alone, so that their
    neighbors are not blamed with them.
    """
    first = _unplanned(session, lane, settings) if preference.gathering else None
    first = first or _first(session, lane, settings, preference)
    if first is None:
        return []
    if preference.warm and first.kind in FORWARD and first.space_id not in preference.warm:
        first = _warm(session, lane, settings, preference.warm) or first
    if preference.like is not None and not _may_join(first, preference.like):
        return []
    chosen = [(first.job_id, first.seq)]
    if first.deaths == 0:
        chosen += _companions(session, lane, first, settings, preference)
    rows = session.execute(
        sa.update(Chunk)
        .where(_among(chosen))
        .values(
            status=ChunkStatus.CLAIMED,
            attempt=Chunk.attempt + 1,
            claimed_by=claimed_by,
            lease_until=sql.clock() + settings.lease_s,
        )
        .returning(*COLUMNS)
        .execution_options(synchronize_session=False)
    ).all()
    _start(session, {row.job_id for row in rows})
    claims = [Claim(row.job_id, row.seq, row.kind, row.attempt, claimed_by, *row[5:]) for row in rows]
    return sorted(claims, key=lambda claim: (claim.job_id, claim.seq))


def waiting(session: Session, lane: Lane, settings: Settings) -> bool:
    """Return whether work in the lane waits for a claim."""
    return session.scalar(sa.select(sa.exists().where(_claimable(lane, settings)))) or False


def _may_join(first: sa.Row, like: Claim) -> bool:
    return not first.deaths and not like.deaths and (first.kind, first.space_id) == (like.kind, like.space_id)


def _claimable(lane: Lane, settings: Settings) -> sa.ColumnElement[bool]:
    free = sa.or_(Chunk.status == ChunkStatus.READY, Chunk.lease_until < sql.clock())
    return sa.and_(tables.OPEN_CHUNK, Chunk.lane == lane, free, Chunk.attempt < settings.max_attempts)


def _one(claimable: sa.ColumnElement[bool]) -> sa.Select[str, int, str, str, int, int, str]:
    return (
        sa.select(Chunk.job_id, Chunk.seq, Chunk.kind, Chunk.space_id, Chunk.size, Chunk.deaths, Chunk.owner)
        .where(claimable)
        .limit(1)
        .with_for_update(skip_locked=True)
    )


def _warm(session: Session, lane: Lane, settings: Settings, warm: Collection[str]) -> sa.Row | None:
    """Return the oldest work for a network in memory, of any owner; the owners' turns continue after it."""
    oldest = _one(_claimable(lane, settings)).where(Chunk.kind.in_(FORWARD)).order_by(Chunk.job_id, Chunk.seq)
    found = (session.execute(oldest.where(Chunk.space_id == space_id)).first() for space_id in warm)
    return next((row for row in found if row is not None), None)


def _unplanned(session: Session, lane: Lane, settings: Settings) -> sa.Row | None:
    """Return the planning of the oldest job that has not begun, of any owner; the owners' turns continue after it."""
    waiting = (
        sa.select(tables.Job.id)
        .where(tables.Job.status == JobStatus.QUEUED, tables.Job.kind == JobKind.EMBED)
        .order_by(tables.Job.id)
        .limit(MOST_CHUNKS)
    )
    planning = _one(_claimable(lane, settings)).where(
        Chunk.job_id.in_(session.scalars(waiting).all()), Chunk.kind == PLAN
    )
    return session.execute(planning.order_by(Chunk.job_id)).first()


def _first(session: Session, lane: Lane, settings: Settings, preference: Preference) -> sa.Row | None:
    claimable = _claimable(lane, settings)
    owner = session.scalar(sa.select(sa.func.min(Chunk.owner)).where(claimable, Chunk.owner > preference.after_owner))
    oldest = _one(claimable)
    # the round starts again where the next owner has nothing; or somebody else is just taking that owner's last chunk
    turns = [oldest.order_by(Chunk.owner, Chunk.job_id, Chunk.seq)]
    if owner is not None:
        turns.insert(0, oldest.where(Chunk.owner == owner).order_by(Chunk.job_id, Chunk.seq))
    if preference.after_planning:
        turns = [turn.where(Chunk.kind != PLAN) for turn in turns] + turns
    found = next((row for turn in turns if (row := session.execute(turn).first()) is not None), None)
    if found is not None and found.kind == PLAN and found.job_id <= preference.last_planned:
        mine = oldest.where(Chunk.kind == PLAN, Chunk.owner == found.owner)
        later = mine.where(Chunk.job_id > preference.last_planned).order_by(Chunk.job_id)
        return session.execute(later).first() or found
    return found


def _companions(
    session: Session, lane: Lane, first: sa.Row, settings: Settings, preference: Preference
) -> list[tuple[str, int]]:
    """Return more chunks for the same claim: images of many small jobs, or searches for one matrix product."""
    room, most = preference.most_images - first.size, MOST_CHUNKS
    if first.kind == JobKind.SEARCH:
        room, most = 0, preference.most_searches - 1
    elif first.kind != JobKind.EMBED or room <= 0:
        return []
    if most <= 0:
        return []
    rows = session.execute(
        sa.select(Chunk.job_id, Chunk.seq, Chunk.size)
        .where(
            _claimable(lane, settings),
            Chunk.kind == first.kind,
            Chunk.space_id == first.space_id,
            Chunk.deaths == 0,
            Chunk.size <= room,
            sa.not_(_among([(first.job_id, first.seq)])),
        )
        .order_by(Chunk.job_id, Chunk.seq)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    chosen = []
    for job_id, seq, size in rows:
        if size <= room:
            room -= size
            chosen.append((job_id, seq))
    return chosen


def _start(session: Session, job_ids: Collection[str]) -> None:
    """Record that work on the jobs has begun.

    All others lock the job before the chunk; a claim locks the chunk first, so it must not wait for a job's row.
    """
    queued = (
        sa.select(tables.Job.id)
        .where(tables.Job.id.in_(job_ids), tables.Job.status == JobStatus.QUEUED)
        .with_for_update(skip_locked=True)
    )
    session.execute(
        sa.update(tables.Job)
        .where(tables.Job.id.in_(queued))
        .values(
            status=sa.case((tables.Job.planned, JobStatus.RUNNING), else_=JobStatus.PLANNING),
            started_at=sql.clock(),
        )
        .execution_options(synchronize_session=False)
    )


def _among(chunks: Iterable[tuple[str, int]]) -> sa.ColumnElement[bool]:
    return sql.among((Chunk.job_id, Chunk.seq), chunks)


def _held(claims: Sequence[Claim]) -> sa.ColumnElement[bool]:
    return sa.and_(
        _among((claim.job_id, claim.seq) for claim in claims),
        Chunk.claimed_by == claims[0].claimed_by,
        Chunk.status == ChunkStatus.CLAIMED,
    )


def renew(session: Session, claims: Sequence[Claim], lease_s: float) -> set[tuple[str, int]]:
    """Renew the leases and return (job_id, seq) of those that are still ours; the others' work must stop."""
    if not claims:
        return set()
    rows = session.execute(
        sa.update(Chunk)
        .where(_held(claims))
        .values(lease_until=sql.clock() + lease_s)
        .returning(Chunk.job_id, Chunk.seq)
        .execution_options(synchronize_session=False)
    )
    return {(job_id, seq) for job_id, seq in rows}


def excuse(session: Session, claims: Sequence[Claim]) -> None:
    """Count nothing against chunks that are ours: what they need is away, and they wait until their leases run out."""
    if not claims:
        return
    session.execute(
        sa.update(Chunk).where(_held(claims)).values(attempt=0).execution_options(synchronize_session=False)
    )


def release(session: Session, claims: Sequence[Claim]) -> int:
    """Hand chunks back after a slice of them; return how many were still ours."""
    if not claims:
        return 0
    rows = session.execute(
        sa.update(Chunk)
        .where(_held(claims))
        # it went forward, so what went wrong before must not add up over a long job
        .values(status=ChunkStatus.READY, claimed_by=None, lease_until=None, attempt=0, deaths=0)
        .returning(Chunk.seq)
        .execution_options(synchronize_session=False)
    )
    return len(rows.all())
