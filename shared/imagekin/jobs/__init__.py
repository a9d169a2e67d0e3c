"""The job state machine: a job's rows change here and nowhere else.

Each function takes a session and commits nothing; callers run it as `database.write(jobs.claim, ...)` and ring the
doorbell after the commit. Whoever locks rows of several tables takes them in one order: job, chunk, collection.

    job:    queued -> planning -> running -> finalizing -> succeeded | partial | failed | cancelled
    chunk:  ready -> claimed -> done | quarantined | cancelled
"""

from imagekin.jobs.claims import Claim, claim, died, release, renew
from imagekin.jobs.endings import cancel, cancel_collection, delete, fail
from imagekin.jobs.outcomes import (
    checkpoint,
    checkpointed,
    extend,
    finalize,
    finish_images,
    finish_result,
    of,
    plan,
    state,
)
from imagekin.jobs.reports import get, items, view, views
from imagekin.jobs.submission import Submission, find_idempotent, retry, submit
from imagekin.jobs.sweeping import hold, sweep

__all__ = [
    "Claim",
    "Submission",
    "cancel",
    "cancel_collection",
    "checkpoint",
    "checkpointed",
    "claim",
    "delete",
    "died",
    "extend",
    "fail",
    "finalize",
    "find_idempotent",
    "finish_images",
    "finish_result",
    "get",
    "hold",
    "items",
    "of",
    "plan",
    "release",
    "renew",
    "retry",
    "state",
    "submit",
    "sweep",
    "view",
    "views",
]
