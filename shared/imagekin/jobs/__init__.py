"""The job state machine, a module for each step of a job's life: its rows change here and nowhere else.

Each function takes a session and commits nothing; callers run it as `database.write(claim.claim, ...)` and ring the
doorbell after the commit. Rows of several tables are locked in one order: job, chunk, collection.

    job:    queued -> planning -> running -> finalizing -> succeeded | partial | failed | cancelled
    chunk:  ready -> claimed -> done | quarantined | cancelled
"""
