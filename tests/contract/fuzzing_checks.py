"""What schemathesis checks beside its own: loaded by its process, see test_fuzzing.py."""

from __future__ import annotations

import schemathesis

# What no document can say beforehand: it depends on what is there, on other requests and on the settings. A code, or
# the pointer to the field of an `invalid_request`.
DEPENDS = {
    # an upload that is empty
    "",
    "idempotency_mismatch",
    "invalid_key",
    "source_refused",
    "unknown_backbone",
    "unknown_weights",
    "/against",
    "/avoid",
    "/callback_url",
    "/clustering_id",
    "/collection",
    "/crop",
    "/cursor",
    "/file",
    # in a query it is a text
    "/filter",
    "/filename",
    "/image",
    "/images",
    # hnsw needs PostgreSQL
    "/index",
    "/n_clusters",
    "/names",
    # each valid by itself; the one is null or missing, and the other needs it
    "/negatives",
    "/query",
    "/query/embedding",
    "/query/url",
    # that they add up to 1
    "/shares",
    "/source/urls",
    # the same name as that of the field that is written
    "/stratify",
    "/upload_id",
}
# What no database keeps: an expression for it on every text would hide what the texts are.
UNKEPT = {"The text contains a NUL character.", "The text is not valid Unicode.", "The number is too large."}
# Who asks, what is not there, what is in the way, what has become too much.
OTHERWISE = {401, 403, 404, 409, 410, 429, 503}


@schemathesis.check
def valid_requests_are_refused_only_for_what_is_there(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Schemathesis's own positive_data_acceptance, which would have every valid request accepted."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if response.status_code < 400 or response.status_code in OTHERWISE:
        return
    problem = response.json()
    reasons = [problem["code"]]
    if problem["code"] == "invalid_request":
        reasons = [
            each["detail"] if each["detail"] in UNKEPT else each["pointer"] for each in problem.get("errors", [])
        ]
    known = response.status_code == 422 and bool(reasons) and DEPENDS.union(UNKEPT).issuperset(reasons)
    assert known, f"refused though it is valid: {problem}"
