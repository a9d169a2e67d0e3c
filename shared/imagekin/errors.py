"""The one error tree: every failure that a person or a program may see.

    ImagekinError                   internal_error        500
    ├── InvalidRequest              invalid_request       422
    │   ├── InvalidKey              invalid_key           422
    │   ├── UnknownBackbone         unknown_backbone      422
    │   ├── UnknownWeights          unknown_weights       422
    │   ├── SourceRefused           source_refused        422
    │   └── IdempotencyMismatch     idempotency_mismatch  422
    ├── BadRequest                  bad_request           400
    ├── Unauthorized                unauthorized          401
    ├── Forbidden                   forbidden             403
    ├── NotFound                    not_found             404
    │   ├── CollectionNotFound      collection_not_found  404
    │   ├── ImageNotFound           image_not_found       404
    │   ├── JobNotFound             job_not_found         404
    │   └── UploadNotFound          upload_not_found      404
    ├── Conflict                    conflict              409
    │   ├── CollectionExists        collection_exists     409
    │   ├── JobNotFinished          job_not_finished      409
    │   ├── JobFinished             job_finished          409
    │   └── SourceExpired           source_expired        409
    ├── ResultExpired               result_expired        410
    ├── TooLarge                    too_large             413
    ├── QuotaExceeded               quota_exceeded        429
    ├── RateLimited                 rate_limited          429
    ├── Backlog                     backlog               503
    ├── Unavailable                 unavailable           503
    ├── JobError                    internal_error        500
    │   ├── EmptySource             empty_source          500
    │   ├── WeightsUnavailable      weights_unavailable   500
    │   ├── SourceUnreadable        source_unreadable     500
    │   ├── UploadExpired           source_expired        500
    │   ├── NotConverged            not_converged         500
    │   ├── CollectionDeleted       collection_deleted    500
    │   ├── TooFewLabels            too_few_labels        500
    │   └── NotBetter               not_better            500
    ├── ItemError                   decode_error          422
    │   ├── DecodeError             decode_error          422
    │   ├── UnsupportedFormat       unsupported_format    422
    │   ├── ImageTooLarge           too_large             422
    │   ├── DecompressionBomb       decompression_bomb    422
    │   ├── EmptyFile               empty_file            422
    │   ├── FetchFailed             fetch_failed          422
    │   ├── FetchRefused            fetch_refused         422
    │   ├── ItemNotFound            not_found             422
    │   ├── DuplicateKey            duplicate_key         422
    │   ├── Quarantined             quarantined           422
    │   └── ItemTimeout             timeout               422
    ├── NotReady                    not_ready             503
    └── LeaseLost                   lease_lost            500

The docstring of a class is its default message; it says what was wrong and, where there is one, what to do.
`code` is the stable name on the wire, `http_status` what the API answers with, `retryable` whether trying the
same again later can succeed.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar


class ImagekinError(Exception):
    """Something went wrong inside imagekin; its log has the details."""

    code: ClassVar[str] = "internal_error"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(
        self, detail: str | None = None, *, errors: list[dict[str, Any]] | None = None, retry_after_s: int | None = None
    ) -> None:
        self.detail = detail or inspect.cleandoc(type(self).__doc__ or "")
        self.errors = errors or []
        self.retry_after_s = retry_after_s
        super().__init__(self.detail)


# --- what a caller asked for -----------------------------------------------------------------------------------


class InvalidRequest(ImagekinError):
    """The request is not valid; `errors` points at each field that is not."""

    code = "invalid_request"
    http_status = 422


class InvalidKey(InvalidRequest):
    """An image key must be at most 1,024 bytes, without empty, `.` or `..` parts and without control characters."""

    code = "invalid_key"


class UnknownBackbone(InvalidRequest):
    """There is no backbone of that name; GET /v1/backbones lists them."""

    code = "unknown_backbone"


class UnknownWeights(InvalidRequest):
    """The backbone has no weights of that name, and IMAGEKIN_WEIGHTS_DIR has no file of that name."""

    code = "unknown_weights"


class SourceRefused(InvalidRequest):
    """The source lies outside the folders that IMAGEKIN_SOURCE_ROOTS allows."""

    code = "source_refused"


class IdempotencyMismatch(InvalidRequest):
    """This Idempotency-Key was used before with another body; use a new key for a new request."""

    code = "idempotency_mismatch"


class BadRequest(ImagekinError):
    """The request could not be read."""

    code = "bad_request"
    http_status = 400


class Unauthorized(ImagekinError):
    """A valid API key is needed: send it as `Authorization: Bearer <key>`."""

    code = "unauthorized"
    http_status = 401


class Forbidden(ImagekinError):
    """This server runs in local mode and answers only its own machine."""

    code = "forbidden"
    http_status = 403


class NotFound(ImagekinError):
    """There is nothing at this address, or it is not yours."""

    code = "not_found"
    http_status = 404


class CollectionNotFound(NotFound):
    """There is no collection of that name."""

    code = "collection_not_found"


class ImageNotFound(NotFound):
    """This collection does not have that image."""

    code = "image_not_found"


class JobNotFound(NotFound):
    """There is no job with that id."""

    code = "job_not_found"


class UploadNotFound(NotFound):
    """There is no upload with that id, or it has expired."""

    code = "upload_not_found"


class Conflict(ImagekinError):
    """The request conflicts with the current state."""

    code = "conflict"
    http_status = 409


class CollectionExists(Conflict):
    """A collection of that name exists already."""

    code = "collection_exists"


class JobNotFinished(Conflict):
    """The job is not finished yet; poll it until its status is terminal."""

    code = "job_not_finished"


class JobFinished(Conflict):
    """The job is finished already."""

    code = "job_finished"


class SourceExpired(Conflict):
    """The job's upload has expired; upload the images again."""

    code = "source_expired"


class ResultExpired(ImagekinError):
    """The job's result has expired and was removed."""

    code = "result_expired"
    http_status = 410


class TooLarge(ImagekinError):
    """The request is larger than this server accepts."""

    code = "too_large"
    http_status = 413


class QuotaExceeded(ImagekinError):
    """You have as much work queued as your quota allows; try again later."""

    code = "quota_exceeded"
    http_status = 429
    retryable = True


class RateLimited(ImagekinError):
    """You are sending more requests than your rate allows; wait for the seconds in `Retry-After`."""

    code = "rate_limited"
    http_status = 429
    retryable = True


class Backlog(ImagekinError):
    """The service has more work queued than it accepts; try again later."""

    code = "backlog"
    http_status = 503
    retryable = True


class Unavailable(ImagekinError):
    """The service cannot answer at the moment; try again later."""

    code = "unavailable"
    http_status = 503
    retryable = True


# --- what ends a job -------------------------------------------------------------------------------------------


class JobError(ImagekinError):
    """The job cannot continue."""


class EmptySource(JobError):
    """The source has no images."""

    code = "empty_source"


class WeightsUnavailable(JobError):
    """The backbone's weights are not available on this worker."""

    code = "weights_unavailable"


class SourceUnreadable(JobError):
    """The source cannot be read."""

    code = "source_unreadable"


class UploadExpired(JobError):
    """The job's upload expired before it was read."""

    code = "source_expired"


class NotConverged(JobError):
    """The clustering did not finish; use the algorithm `kmeans`, or fewer starts (n_init)."""

    code = "not_converged"


class CollectionDeleted(JobError):
    """The collection was deleted while the job was at work."""

    code = "collection_deleted"


class TooFewLabels(JobError):
    """Too few labelled images: at least two classes need two examples each."""

    code = "too_few_labels"


class NotBetter(JobError):
    """The labels do not clearly improve the neighbors, so nothing was made; add labels, or use `force`."""

    code = "not_better"


# --- what ends an image ----------------------------------------------------------------------------------------


class ItemError(ImagekinError):
    """The image cannot be used."""

    code = "decode_error"
    http_status = 422


class DecodeError(ItemError):
    """The image is broken: its data cannot be decoded."""

    code = "decode_error"


class UnsupportedFormat(ItemError):
    """The data is not an image of a format that imagekin reads."""

    code = "unsupported_format"


class ImageTooLarge(ItemError):
    """The image is larger than this server accepts."""

    code = "too_large"


class DecompressionBomb(ItemError):
    """The image would decompress to more pixels than this server accepts."""

    code = "decompression_bomb"


class EmptyFile(ItemError):
    """The file is empty."""

    code = "empty_file"


class FetchFailed(ItemError):
    """The image could not be fetched."""

    code = "fetch_failed"


class FetchRefused(ItemError):
    """This server does not fetch from that address."""

    code = "fetch_refused"


class ItemNotFound(ItemError):
    """The image is not where the source said it would be."""

    code = "not_found"


class DuplicateKey(ItemError):
    """The key is there already."""

    code = "duplicate_key"


class Quarantined(ItemError):
    """Decoding this image killed a worker process twice; it was set aside."""

    code = "quarantined"


class ItemTimeout(ItemError):
    """The image took too long."""

    code = "timeout"


# --- what stops a process --------------------------------------------------------------------------------------


class NotReady(ImagekinError):
    """The database is not reachable or not migrated."""

    code = "not_ready"
    http_status = 503
    retryable = True


class LeaseLost(ImagekinError):
    """Another worker has this chunk now; what was computed for it is dropped."""

    code = "lease_lost"
