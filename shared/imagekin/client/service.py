"""The service from the client's side: collections, images, uploads and jobs.

Long because it is a list: one method for each call of the service, each a few lines.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self, Unpack
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from imagekin import errors, schemas
from imagekin.client import bodies, columns, embedding, exports, posting, queries, sending, sources
from imagekin.client.bodies import Body, Sent
from imagekin.client.exports import Vectors
from imagekin.client.jobs import Job
from imagekin.client.sources import Given
from imagekin.client.transport import Transport, ignore, parse
from imagekin.enums import (
    Algorithm,
    Colors,
    DType,
    Fit,
    ImageOrder,
    IndexMethod,
    JobStatus,
    Library,
    Metric,
    OnConflict,
    Precision,
    SelectMethod,
    VerdictWord,
    ViewName,
)
from imagekin.schemas.kinds import JobKind

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 60.0
RETRIES = 5


class Client:
    """The imagekin service at a URL.

    url: default IMAGEKIN_URL, else http://127.0.0.1:8000; api_key: default IMAGEKIN_API_KEY. Requests are repeated
    with back-off, `retries` times, after 429, 503 and broken connections; jobs carry an idempotency key, so that
    this never makes two of them. Every method raises the classes of `imagekin.errors`, `Unreachable` among them.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
    ) -> None:
        url = url or os.environ.get("IMAGEKIN_URL") or DEFAULT_URL
        api_key = api_key or os.environ.get("IMAGEKIN_API_KEY") or None
        self._transport = Transport(url, api_key, timeout_s=timeout_s, retries=retries)

    @property
    def url(self) -> str:
        return self._transport.url

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ping(self) -> None:
        """Ask once whether the server is there; raises `Unreachable`."""
        self._transport.send("GET", "/healthz", ignore, retries=0)

    def backbones(
        self,
        name: str | None = None,
        *,
        source: Library | str | None = None,
        dim: int | None = None,
        license: str | None = None,
    ) -> list[schemas.Backbone]:
        """List the networks: all of them, or those with `name` in their names, of a library, a dim, a license."""
        wanted = {"name": name, "source": source, "dim": dim, "license": license}
        return list(self._transport.pages("/v1/backbones", schemas.Backbone, **wanted))

    # --- collections -------------------------------------------------------------------------------------------

    def create_collection(
        self,
        name: str,
        *,
        backbone: str | None = None,
        weights: str | None = None,
        dtype: DType | str | None = None,
        precision: Precision | str | None = None,
        fit: Fit | str | None = None,
        colors: Colors | str | None = None,
    ) -> schemas.Collection:
        """Create a collection of one space; raises `CollectionExists`, `UnknownBackbone`, `UnknownWeights`.

        fit: `crop`, `pad` or `squash`; by default as the weights want it. colors: `srgb`, or `stored` for a space that
        takes no notice of color profiles, as spaces did before them.
        """
        space = {"backbone": backbone, "weights": weights, "dtype": dtype, "precision": precision}
        space |= {"fit": fit, "colors": colors}
        body = bodies.json(schemas.CollectionBody, name=name, **space)
        return self._transport.post("/v1/collections", schemas.Collection, body, safe=False)

    def ensure_collection(
        self,
        name: str,
        *,
        backbone: str | None = None,
        weights: str | None = None,
        dtype: DType | str | None = None,
        precision: Precision | str | None = None,
        fit: Fit | str | None = None,
    ) -> schemas.Collection | None:
        """Create the collection if it is missing and return it; None if it was there or another command was faster.

        Raises `Conflict` if it has another space, and what `create_collection` does.
        """
        space = {"backbone": backbone, "weights": weights, "dtype": dtype, "precision": precision, "fit": fit}
        try:
            there = self.collection(name)
        except errors.CollectionNotFound:
            try:
                return self.create_collection(name, **space)
            except errors.CollectionExists:
                there = self.collection(name)
        for field, wanted in space.items():
            found = getattr(there, field)
            # DEFAULT names what the service chose; which weights these are, it alone knows.
            if wanted is not None and str(wanted) not in (str(found), "DEFAULT"):
                raise errors.Conflict(f"Collection {name} has {field} {found}, not {wanted}; use another collection.")
        return None

    def collections(self) -> Iterator[schemas.Collection]:
        return self._transport.pages("/v1/collections", schemas.Collection)

    def collection(self, name: str) -> schemas.Collection:
        """Return one collection; raises `CollectionNotFound`."""
        return self._transport.get(_collection(name), schemas.Collection)

    def delete_collection(self, name: str) -> None:
        """Delete a collection with everything in it."""
        self._transport.send("DELETE", _collection(name), ignore, safe=False)

    # --- images ------------------------------------------------------------------------------------------------

    def images(
        self,
        collection: str,
        *,
        filter: Mapping[str, Any] | None = None,
        prefix: str | None = None,
        order: ImageOrder | str | None = None,
    ) -> Iterator[schemas.Image]:
        """Iterate over images, as they came or by `order`: those whose metadata and keys are as asked."""
        narrowed = {"filter": None if filter is None else json.dumps(dict(filter)), "prefix": prefix, "order": order}
        return self._transport.pages(f"{_collection(collection)}/images", schemas.Image, **narrowed)

    def count_images(
        self, collection: str, *, filter: Mapping[str, Any] | None = None, prefix: str | None = None
    ) -> int:
        """Return how many images `images` would yield."""
        narrowed = {"filter": None if filter is None else json.dumps(dict(filter)), "prefix": prefix}
        return self._transport.get(f"{_collection(collection)}/images", schemas.ImagePage, limit=1, **narrowed).total

    def update_images(
        self,
        collection: str,
        *,
        metadata: Mapping[str, Any],
        image_ids: Sequence[str] | None = None,
        image_keys: Sequence[str] | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> int:
        """Set fields of many images' metadata, None removes one; give the number of images.

        The images are those of `image_ids`, `image_keys` or `filter`, an empty one chooses all. Raises
        `ImageNotFound`, `InvalidRequest`.
        """
        chosen = _chosen(image_ids, image_keys, filter)
        return sum(
            self._change(collection, "PATCH", schemas.ImagesPatch, {**some, "metadata": metadata}) for some in chosen
        )

    def delete_images(
        self,
        collection: str,
        *,
        image_ids: Sequence[str] | None = None,
        image_keys: Sequence[str] | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> int:
        """Delete the images of `image_ids`, `image_keys` or `filter`, an empty one chooses all; give their number."""
        chosen = _chosen(image_ids, image_keys, filter)
        return sum(self._change(collection, "DELETE", schemas.ImagesBody, some) for some in chosen)

    def labels(self, collection: str, field: str = "label") -> Iterator[schemas.LabelCount]:
        """Iterate over the values of a metadata field with the number of images of each, most first."""
        return self._transport.pages(f"{_collection(collection)}/labels", schemas.LabelCount, field=field)

    def columns(self, collection: str, names: Sequence[str] = ("id", "key")) -> dict[str, columns.Column]:
        """Return columns of all images, in the order in which they were added.

        names: `id`, `key`, `content_hash`, `format`, `created_at` (texts), `width`, `height` (float32 arrays),
        `metadata.FIELD` (values of JSON, None for none), `result.JOB.FIELD` of a job's rows (numbers or values). Raises
        `InvalidRequest` for other names.
        """
        path = f"{_collection(collection)}/columns"
        return columns.read(self._transport.read(path, accept="*/*", names=",".join(names)))

    def known(self, collection: str, contents: Mapping[str, str]) -> set[str]:
        """Return for which keys a collection has exactly this content, the SHA-256 of a file in hexadecimal."""
        pairs = iter(contents.items())
        found: set[str] = set()
        while some := list(itertools.islice(pairs, schemas.MAX_CONTENTS)):
            found |= sending.known(self._transport, collection, some)
        return found

    def image(self, collection: str, image_id: str) -> schemas.Image:
        return self._transport.get(_image(collection, image_id), schemas.Image)

    def update_image(self, collection: str, image_id: str, *, metadata: Mapping[str, Any]) -> schemas.Image:
        """Replace an image's metadata."""
        return self._transport.send(
            "PATCH",
            _image(collection, image_id),
            lambda answer: parse(schemas.Image, answer),
            body=bodies.json(schemas.ImagePatch, metadata=dict(metadata)),
        )

    def delete_image(self, collection: str, image_id: str) -> None:
        self._transport.send("DELETE", _image(collection, image_id), ignore, safe=False)

    def embedding(self, collection: str, image_id: str) -> NDArray[Any]:
        """Return an image's embedding (dim,)."""
        answer = self._transport.get(f"{_image(collection, image_id)}/embedding", schemas.Embedding)
        return np.asarray(answer.embedding, dtype=str(answer.dtype))

    def thumbnail(self, collection: str, image_id: str) -> bytes:
        """Return an image's thumbnail, a JPEG."""
        return self._transport.read(f"{_image(collection, image_id)}/thumbnail", accept="image/jpeg")

    def vectors(self, collection: str) -> Vectors:
        """Return all vectors (n, dim) of a collection; the download is on disk until it is an array."""
        with tempfile.TemporaryFile() as file:
            self._transport.download(f"{_collection(collection)}/export", file, format="npz")
            return exports.read(file)

    def export(
        self,
        collection: str,
        path: str | os.PathLike[str],
        *,
        format: str | None = None,
        field: str | None = None,
        split: str | None = None,
        filter: Mapping[str, Any] | None = None,
        received: exports.Received | None = None,
    ) -> Path:
        """Write all images of a collection, with ids, keys and metadata, to a file, which appears when it is whole.

        format: npz, parquet or safetensors with vectors; jsonl, csv, labelstudio, coco or manifest without; webdataset
        or imagefolder with pictures, of which `exports.left_out` tells those that could not be read; None goes by the
        suffix. field, split: the fields of the metadata that are the label (`label`) and the split (`split`). filter:
        only images whose metadata have these values. received: is called with the bytes so far and their total, None
        if that is not known. Raises `InvalidRequest` for another suffix, `CollectionNotFound`.
        """
        target = bodies.expanded(Path(path))
        wanted = None if filter is None else json.dumps(dict(filter))
        asked = {"format": format or exports.format_of(target), "field": field, "split": split, "filter": wanted}
        with exports.whole(target) as file:
            self._transport.download(f"{_collection(collection)}/export", file, received, **asked)
        return target

    def import_vectors(
        self,
        source: str | os.PathLike[str] | BinaryIO | bytes,
        collection: str,
        *,
        on_conflict: OnConflict | str | None = None,
        callback_url: str | None = None,
        idempotency_key: str | None = None,
        sent: Sent | None = None,
    ) -> Job[schemas.EmbedResult]:
        """Put the vectors of an npz or Parquet file, as `export` writes it, into a collection of the same space.

        The collection must be there. `sent` is called with the bytes sent so far. Raises `InvalidRequest` if the
        file is of another space or another format.
        """
        upload = self.upload(source, sent=sent)
        body = bodies.json(schemas.ImportBody, upload_id=upload.id, on_conflict=on_conflict, callback_url=callback_url)
        return posting.job(self._transport, f"{_collection(collection)}/import", body, idempotency_key)

    # --- uploads -----------------------------------------------------------------------------------------------

    def upload(self, source: str | os.PathLike[str] | BinaryIO | bytes, *, sent: Sent | None = None) -> schemas.Upload:
        """Upload an archive, an image or a manifest as it is; `sent` is called with the bytes sent so far."""
        given = bodies.expanded(Path(source)) if isinstance(source, str | PurePath) else source
        return posting.upload(self._transport, bodies.of_file(given, sent))  # pyright: ignore[reportArgumentType]

    def delete_upload(self, upload_id: str) -> None:
        self._transport.send("DELETE", f"/v1/uploads/{_quoted(upload_id)}", ignore, safe=False)

    # --- jobs --------------------------------------------------------------------------------------------------

    def embed(
        self,
        source: Given,
        collection: str,
        *,
        backbone: str | None = None,
        weights: str | None = None,
        dtype: DType | str | None = None,
        precision: Precision | str | None = None,
        fit: Fit | str | None = None,
        on_conflict: OnConflict | str | None = None,
        upload: bool | None = None,
        exclude: Sequence[str] = (),
        prefixes: Sequence[str] = (),
        callback_url: str | None = None,
        idempotency_key: str | None = None,
        on_upload: sending.Watch | None = None,
    ) -> Job[schemas.EmbedResult]:
        """Embed images into a collection, which is created when it is not there.

        source: a picture, a folder, an archive (zip, tar, tar.gz) or a manifest (JSONL, CSV) on this machine, a list
        of pictures and folders, a URL or a list of URLs (strings, or mappings with `url`, `key`, `metadata`), or a
        location that the server reads (`s3://...`). The pictures of a folder are keyed by their paths below it,
        listed ones by file name, or below their common folder where file names repeat. A list may have archives and
        manifests in it, too: each makes a job, and a `JobGroup` shows all as one.
        backbone, weights, dtype, precision, fit: the space of a new collection; one that is there must have it.
        upload: a folder is read in place by a server on this machine that is allowed to, else uploaded; True always
        uploads, False never. What the collection has under the same key is not sent again, so an interrupted upload
        continues where it stopped; the rest is sent in parts, each a job, which a `JobGroup` shows as one. With an
        idempotency key or a callback everything is sent, as one job. exclude: patterns of names, or of paths where they
        have a `/`, of what is left out of a folder, location or archive. prefixes: of a location or a manifest, only
        what has a key that begins like one of them; each makes a job, and workers plan them at the same time.
        on_upload: is called with a `Sending` during an upload. Raises `FileNotFoundError`, `EmptySource`, `Conflict`
        where the collection has another space; nothing is made of a source that cannot be read.
        """
        resolved = sources.resolve(source, exclude, prefixes)
        sources.check(resolved, upload)
        space = {"backbone": backbone, "weights": weights, "dtype": dtype, "precision": precision, "fit": fit}
        self.ensure_collection(collection, **space)
        request = embedding.Request(self._transport, collection, on_conflict, callback_url, idempotency_key, on_upload)
        return request.post(resolved, upload)

    def search(
        self, picture: queries.Picture | None = None, *, collection: str, **options: Unpack[queries.Options]
    ) -> schemas.SearchResult:
        """Find the images nearest to a picture (path, bytes, open file or URL), a stored image or an embedding (dim,).

        One query of: picture, image_id, image_key, embedding, url; or several: `positives` and perhaps `negatives`,
        lists of mappings with one of the last four, of which `refine` (`rocchio`, `logistic`) makes one search; the
        result then has `ask`, images whose verdict would teach most. top_k: how many, 10 by default. min_score: none
        less similar than this in the view. view: `calibrated` (default) or `raw`; below 32 images it is `raw`.
        exclude_query: a stored image is not among its own neighbors (True). filter: only images whose metadata have
        these values; a list is any of them, None is not set, `!` before a name is the opposite. crop: of a picture or a
        URL, only this part: x, y, width and height in shares of the upright picture. collapse_duplicates: a
        near-duplicate of a better neighbor is in that one's `duplicates` and takes no rank. Waits for the answer;
        raises the job's error when it fails.
        """
        return self.search_job(picture, collection=collection, **options).result()

    def search_job(
        self,
        picture: queries.Picture | None = None,
        *,
        collection: str,
        callback_url: str | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[queries.Options],
    ) -> Job[schemas.SearchResult]:
        """Start a search, as `search` does, and give the job."""
        body = queries.body(picture, collection, callback_url, options)
        return self._submit(JobKind.SEARCH, body, idempotency_key)

    def cluster(
        self,
        collection: str,
        n_clusters: int | Literal["auto"],
        *,
        max_clusters: int | None = None,
        metric: Metric | str | None = None,
        algorithm: Algorithm | str | None = None,
        view: ViewName | str | None = None,
        seed: int | None = None,
        n_init: int | None = None,
        callback_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job[schemas.ClusterResult]:
        """Start k-means over a collection; `.result()` waits for clusters and assignments.

        n_clusters: `auto` chooses the number with the highest silhouette, from 2 to `max_clusters` (50). A job's
        `name_cluster` names what was found.
        view: in which images are compared, `calibrated` (default) or `raw`; below 32 images it is `raw`.
        """
        body = bodies.json(
            schemas.ClusterBody,
            collection=collection,
            n_clusters=n_clusters,
            max_clusters=max_clusters,
            metric=metric,
            algorithm=algorithm,
            view=view,
            seed=seed,
            n_init=n_init,
            callback_url=callback_url,
        )
        return self._submit(JobKind.CLUSTER, body, idempotency_key)

    def select(
        self,
        collection: str,
        n: int,
        *,
        method: SelectMethod | str | None = None,
        view: ViewName | str | None = None,
        filter: Mapping[str, Any] | None = None,
        avoid: str | Sequence[str] | None = None,
        callback_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job[schemas.SelectResult]:
        """Choose the n images to look at or to label first; `.result()` waits for them in the order chosen.

        method: `representative` (typical ones), or `diverse` (strange ones come early). avoid: the name of a collection
        of the same space, or a list of image ids: what is chosen lies away from them. filter: only images whose
        metadata have these values, as in `search`.
        """
        body = bodies.json(
            schemas.SelectBody,
            collection=collection,
            n=n,
            method=method,
            view=view,
            filter=None if filter is None else dict(filter),
            avoid=avoid if avoid is None or isinstance(avoid, str) else list(avoid),
            callback_url=callback_url,
        )
        return self._submit(JobKind.SELECT, body, idempotency_key)

    def map(
        self,
        collection: str,
        *,
        view: ViewName | str | None = None,
        filter: Mapping[str, Any] | None = None,
        seed: int | None = None,
        callback_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job[schemas.MapResult]:
        """Lay a collection out in the plane; `.result()` waits for x and y of each image, `.sheet()` for the picture.

        filter: only images whose metadata have these values, as in `search`. Deterministic by seed.
        """
        body = bodies.json(
            schemas.MapBody,
            collection=collection,
            view=view,
            filter=None if filter is None else dict(filter),
            seed=seed,
            callback_url=callback_url,
        )
        return self._submit(JobKind.MAP, body, idempotency_key)

    def classify(
        self,
        collection: str,
        *,
        field: str | None = None,
        min_probability: float | None = None,
        view: ViewName | str | None = None,
        seed: int | None = None,
        callback_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job[schemas.ClassifyResult]:
        """Suggest labels for the unlabelled images, learned from the labelled ones; `.result()` waits for them.

        field: the field of the metadata that labels stand in (`label`). min_probability: leave out what is less sure.
        The job fails with `too_few_labels` if fewer than two classes have two examples.
        """
        body = bodies.json(
            schemas.ClassifyBody,
            collection=collection,
            field=field,
            min_probability=min_probability,
            view=view,
            seed=seed,
            callback_url=callback_url,
        )
        return self._submit(JobKind.CLASSIFY, body, idempotency_key)

    def duplicates(
        self,
        collection: str,
        *,
        threshold: float | None = None,
        against: str | None = None,
        between: str | None = None,
        view: ViewName | str | None = None,
        filter: Mapping[str, Any] | None = None,
        callback_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job[schemas.DuplicatesResult]:
        """Find near-duplicates; `.result()` waits for the groups, each with the image to keep.

        threshold: the cosine from which images are near-duplicates, instead of the collection's own line. against: the
        name of another collection of the same space, whose images are looked for. between: a name in the metadata;
        only images whose values differ are held against each other. filter: only images whose metadata have these
        values.
        """
        body = bodies.json(
            schemas.DuplicatesBody,
            collection=collection,
            threshold=threshold,
            against=against,
            between=between,
            view=view,
            filter=None if filter is None else dict(filter),
            callback_url=callback_url,
        )
        return self._submit(JobKind.DUPLICATES, body, idempotency_key)

    def outliers(
        self,
        collection: str,
        n: int | None = None,
        *,
        view: ViewName | str | None = None,
        filter: Mapping[str, Any] | None = None,
        callback_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job[schemas.OutliersResult]:
        """Find the n images (100) that are least like all others; `.result()` waits for them, strangest first.

        filter: only images whose metadata have these values, which are then the others, too.
        """
        body = bodies.json(
            schemas.OutliersBody,
            collection=collection,
            n=n,
            view=view,
            filter=None if filter is None else dict(filter),
            callback_url=callback_url,
        )
        return self._submit(JobKind.OUTLIERS, body, idempotency_key)

    def give_verdicts(self, collection: str, verdict: VerdictWord | str, pairs: Iterable[tuple[str, str]]) -> int:
        """Store that pairs of image ids are the same or different; return how many verdicts are kept.

        verdict: `same` or `different`. Later `duplicates` jobs obey it, for all images with these contents.
        """
        given = [{"a": a, "b": b, "verdict": str(verdict)} for a, b in pairs]
        body = bodies.json(schemas.VerdictsBody, pairs=given)
        return self._transport.post(f"{_collection(collection)}/verdicts", schemas.VerdictsChanged, body).changed

    def verdicts(self, collection: str) -> Iterator[schemas.Verdict]:
        """Iterate over the verdicts on images of a collection."""
        return self._transport.pages(f"{_collection(collection)}/verdicts", schemas.Verdict)

    def take_back_verdicts(self, collection: str, pairs: Iterable[tuple[str, str]]) -> int:
        """Forget the verdicts on pairs of image ids; return how many there were."""
        body = bodies.json(schemas.PairsBody, pairs=[{"a": a, "b": b} for a, b in pairs])
        path = f"{_collection(collection)}/verdicts"
        answer = self._transport.send("DELETE", path, lambda answer: parse(schemas.VerdictsChanged, answer), body=body)
        return answer.changed

    def adapt(
        self,
        collection: str,
        name: str,
        *,
        field: str | None = None,
        force: bool | None = None,
        seed: int | None = None,
        callback_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job[schemas.AdaptResult]:
        """Make the collection `name` of the same images in a space that labels made better; `.result()` waits for it.

        field: the field of the metadata that labels stand in (`label`). force: make it also if it is not better; else
        the job fails with `not_better`, and nothing is made.
        """
        body = bodies.json(
            schemas.AdaptBody,
            collection=collection,
            name=name,
            field=field,
            force=force,
            seed=seed,
            callback_url=callback_url,
        )
        return self._submit(JobKind.ADAPT, body, idempotency_key)

    def split(
        self,
        collection: str,
        *,
        field: str | None = None,
        shares: Mapping[str, float] | None = None,
        stratify: str | None = None,
        seed: int | None = None,
        threshold: float | None = None,
        callback_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job[schemas.SplitResult]:
        """Split a collection into shares without leaks; `.result()` waits for the counts and the share of each image.

        field: the field of the metadata that is written (`split`). shares: names and sizes, together 1; by default
        train 0.8, val 0.1, test 0.1. stratify: a field whose values are divided by the same shares. Near-duplicates
        stay on one side; threshold: the cosine from which images are some, instead of the collection's own line.
        """
        body = bodies.json(
            schemas.SplitBody,
            collection=collection,
            field=field,
            shares=None if shares is None else dict(shares),
            stratify=stratify,
            seed=seed,
            threshold=threshold,
            callback_url=callback_url,
        )
        return self._submit(JobKind.SPLIT, body, idempotency_key)

    def index(
        self,
        collection: str,
        index: IndexMethod | str = IndexMethod.HNSW,
        *,
        callback_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job[schemas.IndexResult]:
        """Build a collection's index of vectors, which searches then use; `exact` removes it.

        Raises `InvalidRequest` if the service has no PostgreSQL with the extension pgvector.
        """
        body = bodies.json(schemas.IndexBody, index=index, callback_url=callback_url)
        return posting.job(self._transport, f"{_collection(collection)}/index", body, idempotency_key)

    def check_index(
        self,
        collection: str,
        queries: int | None = None,
        *,
        top_k: int | None = None,
        view: ViewName | str | None = None,
        callback_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job[schemas.IndexResult]:
        """Measure which share of the true neighbors searches by the index find; the result's `check` has it.

        queries: images that are searched for (100). Raises `Conflict` if the collection has no index.
        """
        body = bodies.json(schemas.IndexCheckBody, queries=queries, top_k=top_k, view=view, callback_url=callback_url)
        return posting.job(self._transport, f"{_collection(collection)}/index/check", body, idempotency_key)

    def assign(
        self,
        clustering: str | Job[schemas.ClusterResult],
        *,
        image_ids: Sequence[str] | None = None,
        image_keys: Sequence[str] | None = None,
        callback_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job[schemas.AssignResult]:
        """Put images into yesterday's clusters: those named, or all that came after the clustering."""
        body = bodies.json(
            schemas.AssignBody,
            clustering_id=clustering if isinstance(clustering, str) else clustering.id,
            image_ids=None if image_ids is None else list(image_ids),
            image_keys=None if image_keys is None else list(image_keys),
            callback_url=callback_url,
        )
        return self._submit(JobKind.ASSIGN, body, idempotency_key)

    def jobs(
        self,
        *,
        status: JobStatus | str | None = None,
        kind: JobKind | str | None = None,
        collection: str | None = None,
        idempotency_key: str | None = None,
    ) -> Iterator[Job[Any]]:
        """Iterate over jobs, the newest first; under an idempotency key there is one at most."""
        wanted = {"status": status, "kind": kind, "collection": collection, "idempotency_key": idempotency_key}
        found = self._transport.pages("/v1/jobs", schemas.Job, **wanted)
        return (Job(self._transport, data) for data in found)

    def job(self, job_id: str) -> Job[Any]:
        """Return one job; raises `JobNotFound`."""
        return Job(self._transport, self._transport.get(f"/v1/jobs/{_quoted(job_id)}", schemas.Job))

    # --- inside ------------------------------------------------------------------------------------------------

    def _change(self, collection: str, method: str, kind: type[schemas.Body], fields: Mapping[str, Any]) -> int:
        """Change images of a collection at once and give their number."""
        path, body = f"{_collection(collection)}/images", bodies.json(kind, **fields)
        # deleted twice, named images are not there
        safe = method == "PATCH" or "filter" in fields
        answer = self._transport.send(
            method, path, lambda each: parse(schemas.ImagesChanged, each), body=body, safe=safe
        )
        return answer.changed

    def _submit(self, kind: JobKind, body: Body, key: str | None) -> Job[Any]:
        return posting.job(self._transport, f"/v1/jobs/{kind}", body, key)


def _chosen(
    ids: Sequence[str] | None, keys: Sequence[str] | None, filter: Mapping[str, Any] | None
) -> Iterator[dict[str, Any]]:
    """Yield the choice of images, in requests with at most the allowed number of names."""
    given = {"image_ids": ids, "image_keys": keys, "filter": filter}
    ways = {name: way for name, way in given.items() if way is not None}
    if len(ways) != 1:
        raise errors.InvalidRequest(f"Choose images by one of {', '.join(given)}, not by {len(ways)}.")
    [(name, way)] = ways.items()
    if isinstance(way, Mapping):
        yield {name: dict(way)}
        return
    for start in range(0, len(way), schemas.MAX_CHOSEN):
        yield {name: list(way[start : start + schemas.MAX_CHOSEN])}


def _quoted(part: str) -> str:
    return quote(part, safe="", errors="surrogateescape")


def _collection(name: str) -> str:
    return f"/v1/collections/{_quoted(name)}"


def _image(collection: str, image_id: str) -> str:
    return f"{_collection(collection)}/images/{_quoted(image_id)}"
