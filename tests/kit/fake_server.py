"""A little of the contract over real HTTP on loopback: what the client and the command line are tested against.

It computes nothing: a job is what a test says it is. Answers in `faults` go out before any other, one a request.
"""

from __future__ import annotations

import io
import json
import re
import socket
import struct
import tarfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

PNG = b"\x89PNG\r\n\x1a\n" + bytes(24)
NOW = "2026-01-02T03:04:05Z"
PROGRESS = ("total", "done", "embedded", "reused", "skipped", "failed", "cancelled", "ignored", "images_per_s", "eta_s")


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """A status with a body; `breaks`: the connection is reset instead."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    breaks: bool = False


def problem(status: int, code: str, detail: str = "That went wrong.", **headers: str) -> Answer:
    body = {"type": "about:blank", "title": code, "status": status, "detail": detail, "code": code}
    return Answer(status, body, {"Content-Type": "application/problem+json", **headers})


BREAK = Answer(breaks=True)


def progress(**numbers: Any) -> dict[str, Any]:
    nulls = {"total": None, "images_per_s": None, "eta_s": None}
    return {name: numbers.get(name, nulls.get(name, 0)) for name in PROGRESS}


class FakeServer:
    """A server that accepts jobs; `steps` are the states that a new job goes through, one a look."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.faults: list[Answer] = []
        self.collections: dict[str, dict[str, Any]] = {}
        self.images: list[dict[str, Any]] = []
        self.known: set[tuple[str, str]] = set()
        self.keys: dict[str, str] = {}
        self.uploads = 0
        self.jobs: dict[str, dict[str, Any]] = {}
        self.steps: list[dict[str, Any]] = [{"status": "succeeded", "progress": progress(total=2, done=2, embedded=2)}]
        self.results: dict[str, Any] = {}
        self.items: list[dict[str, Any]] = []
        self.roots = False
        self.page = 1000
        self._steps: dict[str, list[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"fake": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> FakeServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def posts(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.method == "POST" and request.path == path]

    def add_collection(self, name: str, **fields: Any) -> dict[str, Any]:
        given = {"backbone": "efficientnet_lite0", "weights": "IMAGENET", "dtype": "float32", "precision": "exact"}
        collection = {"name": name, "dim": 4, "space_id": "s1", "image_count": 0, "created_at": NOW, **given, **fields}
        self.collections[name] = collection
        return collection

    def add_images(self, count: int) -> None:
        shape = {"width": 2, "height": 3, "format": "PNG", "metadata": {}, "created_at": NOW, "content_hash": "aa"}
        self.images = [{"id": f"i{n}", "key": f"{n}.png", **shape} for n in range(count)]

    def add_job(self, kind: str, params: dict[str, Any], **fields: Any) -> dict[str, Any]:
        job_id = f"j{len(self.jobs) + 1}"
        self.jobs[job_id] = {
            "id": job_id,
            "kind": kind,
            "status": "queued",
            "collection": params.get("collection", ""),
            "params": params,
            "progress": progress(),
            "queue_position": 1,
            "created_at": NOW,
            **dict.fromkeys(("started_at", "finished_at", "expires_at", "parent_id", "error")),
            "links": dict.fromkeys(("self", "result", "items", "cancel", "retry"), "/"),
            **fields,
        }
        self._steps[job_id] = list(self.steps)
        return self.jobs[job_id]

    def answer(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            if self.faults:
                return self.faults.pop(0)
            for method, pattern, handle in _ROUTES:
                if method == request.method and (found := re.fullmatch(pattern, request.path)):
                    return handle(self, request, *(unquote(part) for part in found.groups()))
        return problem(404, "not_found", "There is nothing at this address.")

    def paged(self, request: Request, items: list[Any]) -> Answer:
        start = int(request.query.get("cursor", ["0"])[0])
        limit = min(self.page, int(request.query["limit"][0]))
        more = start + limit < len(items)
        return Answer(200, {"items": items[start : start + limit], "next_cursor": str(start + limit) if more else None})

    # --- routes

    def healthz(self, _: Request) -> Answer:
        return Answer(200, {"status": "ok"})

    def list_collections(self, request: Request) -> Answer:
        return self.paged(request, list(self.collections.values()))

    def create_collection(self, request: Request) -> Answer:
        if request.json["name"] in self.collections:
            return problem(409, "collection_exists")
        return Answer(201, self.add_collection(**request.json))

    def get_collection(self, _: Request, name: str) -> Answer:
        known = self.collections.get(name)
        return Answer(200, known) if known else problem(404, "collection_not_found", f"No collection {name}.")

    def delete_collection(self, _: Request, name: str) -> Answer:
        known = self.collections.pop(name, None)
        return Answer(204) if known else problem(404, "collection_not_found")

    def list_images(self, request: Request, _name: str) -> Answer:
        answer = self.paged(request, self.images)
        return Answer(200, {**answer.body, "total": len(self.images)})

    def change_images(self, request: Request, _name: str) -> Answer:
        named = request.json.get("image_ids") or request.json.get("image_keys")
        return Answer(200, {"changed": len(named or self.images)})

    def labels(self, request: Request, _name: str) -> Answer:
        return self.paged(request, [{"value": "chair", "count": 2}, {"value": 7, "count": 1}])

    def known_images(self, request: Request, name: str) -> Answer:
        if name not in self.collections:
            return problem(404, "collection_not_found")
        there = [each for each in request.json["images"] if (each["key"], each["content_hash"]) in self.known]
        return Answer(200, {"items": [{**each, "id": "i"} for each in there]})

    def patch_image(self, request: Request, _name: str, image_id: str) -> Answer:
        image = next(image for image in self.images if image["id"] == image_id)
        image["metadata"] = request.json["metadata"]
        return Answer(200, image)

    def embedding(self, _: Request, _name: str, image_id: str) -> Answer:
        vector = {"id": image_id, "key": "a", "dim": 2, "dtype": "float16", "embedding": [0.5, 2]}
        return Answer(200, vector)

    def thumbnail(self, _: Request, _name: str, _image_id: str) -> Answer:
        return Answer(200, b"\xff\xd8\xff", {"Content-Type": "image/jpeg"})

    def export(self, _: Request, _name: str) -> Answer:
        file = io.BytesIO()
        embeddings = np.arange(8, dtype=np.float32).reshape(2, 4)
        np.savez(file, ids=np.array(["i0", "i1"]), keys=np.array(["a", "b"]), embeddings=embeddings)
        return Answer(200, file.getvalue(), {"Content-Type": "application/octet-stream"})

    def import_vectors(self, request: Request, name: str) -> Answer:
        return Answer(202, self.add_job("import", {"collection": name, **request.json}))

    def index(self, request: Request, name: str) -> Answer:
        return Answer(202, self.add_job("index", {"collection": name, **request.json}))

    def upload(self, request: Request) -> Answer:
        self.uploads += 1
        return Answer(201, {"id": f"u{self.uploads}", "sha256": "aa", "size": len(request.body)})

    def post_job(self, request: Request, kind: str) -> Answer:
        if request.headers["content-type"] == "application/json":
            params: Any = request.json
        else:
            found = re.search(rb'name="collection"\r\n\r\n(.*)\r\n', request.body)
            params = {"collection": found[1].decode() if found else ""}
        if kind == "assign":
            if params["clustering_id"] not in self.jobs:
                return problem(404, "job_not_found", "There is no job with that id.")
            params["collection"] = self.jobs[params["clustering_id"]]["collection"]
        if params.get("source", {}).get("type") == "folder" and not self.roots:
            return problem(422, "source_refused")
        if params["collection"] not in self.collections:
            return problem(404, "collection_not_found", f"There is no collection {params['collection']}.")
        job = self.add_job(kind, params)
        self.keys[job["id"]] = request.headers["idempotency-key"]
        return Answer(202, job)

    def list_jobs(self, request: Request) -> Answer:
        wanted = {name: values[0] for name, values in request.query.items() if name not in ("limit", "cursor")}
        shown = {id: {**job, "idempotency_key": self.keys.get(id)} for id, job in self.jobs.items()}
        jobs = [self.jobs[id] for id, job in shown.items() if all(job[name] == wanted[name] for name in wanted)]
        return self.paged(request, jobs)

    def get_job(self, _: Request, job_id: str) -> Answer:
        if job_id not in self.jobs:
            return problem(404, "job_not_found", "There is no job with that id.")
        if self._steps[job_id]:
            self.jobs[job_id].update(self._steps[job_id].pop(0))
        return Answer(200, self.jobs[job_id])

    def job_items(self, request: Request, _job_id: str) -> Answer:
        wanted = request.query.get("status", [None])[0]
        return self.paged(request, [item for item in self.items if wanted in (None, item["status"])])

    def result(self, _: Request, job_id: str) -> Answer:
        return Answer(200, self.results[self.jobs[job_id]["kind"]])

    def name_cluster(self, request: Request, _job_id: str, label: str) -> Answer:
        cluster = self.results["cluster"]["clusters"][int(label)]
        cluster["name"] = request.json["name"]
        return Answer(200, cluster)

    def sheet(self, request: Request, _job_id: str) -> Answer:
        label = request.query.get("label", [""])[0]
        return Answer(200, PNG + label.encode(), {"Content-Type": "image/png"})

    def cancel(self, _: Request, job_id: str) -> Answer:
        self._steps[job_id] = []
        self.jobs[job_id]["status"] = "cancelled"
        return Answer(202, self.jobs[job_id])

    def retry(self, request: Request, job_id: str) -> Answer:
        parent = self.jobs[job_id]
        return Answer(202, self.add_job(parent["kind"], {**parent["params"], **request.json}, parent_id=job_id))


_NAME = "([^/]+)"
_COLLECTION = f"/v1/collections/{_NAME}"
_ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", "/healthz", FakeServer.healthz),
    ("GET", "/v1/collections", FakeServer.list_collections),
    ("POST", "/v1/collections", FakeServer.create_collection),
    ("GET", _COLLECTION, FakeServer.get_collection),
    ("DELETE", _COLLECTION, FakeServer.delete_collection),
    ("GET", f"{_COLLECTION}/images", FakeServer.list_images),
    ("PATCH", f"{_COLLECTION}/images", FakeServer.change_images),
    ("DELETE", f"{_COLLECTION}/images", FakeServer.change_images),
    ("GET", f"{_COLLECTION}/labels", FakeServer.labels),
    ("POST", f"{_COLLECTION}/images/known", FakeServer.known_images),
    ("PATCH", f"{_COLLECTION}/images/{_NAME}", FakeServer.patch_image),
    ("GET", f"{_COLLECTION}/images/{_NAME}/embedding", FakeServer.embedding),
    ("GET", f"{_COLLECTION}/images/{_NAME}/thumbnail", FakeServer.thumbnail),
    ("GET", f"{_COLLECTION}/export", FakeServer.export),
    ("POST", f"{_COLLECTION}/import", FakeServer.import_vectors),
    ("POST", f"{_COLLECTION}/index(?:/check)?", FakeServer.index),
    ("POST", "/v1/uploads", FakeServer.upload),
    (
        "POST",
        "/v1/jobs/(embed|search|cluster|assign|select|map|classify|adapt|duplicates|outliers|split)",
        FakeServer.post_job,
    ),
    ("GET", "/v1/jobs", FakeServer.list_jobs),
    ("GET", f"/v1/jobs/{_NAME}", FakeServer.get_job),
    ("GET", f"/v1/jobs/{_NAME}/items", FakeServer.job_items),
    ("GET", f"/v1/jobs/{_NAME}/result", FakeServer.result),
    ("GET", f"/v1/jobs/{_NAME}/sheet", FakeServer.sheet),
    ("PATCH", f"/v1/jobs/{_NAME}/clusters/{_NAME}", FakeServer.name_cluster),
    ("POST", f"/v1/jobs/{_NAME}/cancel", FakeServer.cancel),
    ("POST", f"/v1/jobs/{_NAME}/retry", FakeServer.retry),
]


class _Handler(BaseHTTPRequestHandler):
    fake: FakeServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.fake.answer(
            Request(self.command, parts.path, parse_qs(parts.query), headers, self._read_body(headers))
        )
        if answer.breaks:
            # A reset, so that the client sees a broken connection and not an end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        body = b"" if answer.status == 204 else body
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PATCH = do_DELETE = _serve

    def _read_body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body


def unpack(body: bytes) -> dict[str, bytes]:
    """Read an uploaded tar: contents by key."""
    with tarfile.open(fileobj=io.BytesIO(body), mode="r:") as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr] - files
