"""An ASGI request, turned into a WSGI request; ambiguous requests are refused."""

from __future__ import annotations

from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes, urlsplit

from imagekin import errors

# What may be said once: the first and the last of two would be believed by different readers.
_ONCE = frozenset({"host", "content-length", "content-type", "transfer-encoding", "authorization", "cookie"})
_PLAIN = {"content-length": "CONTENT_LENGTH", "content-type": "CONTENT_TYPE"}


def of_scope(scope: dict[str, Any], body: BinaryIO) -> dict[str, Any]:
    """Return the WSGI environment (PEP 3333) of an ASGI `scope`, with `body` as its input."""
    host, port = scope.get("server") or ("", None)
    client = scope.get("client")
    raw_path = scope.get("raw_path") or scope["path"].encode()
    environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(_path(raw_path)).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": host,
        "SERVER_PORT": str(port or ""),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": body,
        # it ends where the body does
        "wsgi.input_terminated": True,
        "wsgi.errors": _Silent(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if client:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client[0], str(client[1])
    for name, value in _headers(scope):
        variable = _PLAIN.get(name, "HTTP_" + name.upper().replace("-", "_"))
        before = environ.get(variable)
        environ[variable] = value if before is None else f"{before},{value}"
    return environ


def check(scope: dict[str, Any]) -> None:
    """Raise BadRequest for a request whose headers two readers would understand differently (RFC 9112, 3.2)."""
    names = [name for name, _ in _headers(scope)]
    for name in _ONCE:
        if names.count(name) > 1:
            raise errors.BadRequest(f"The header {name} may come only once.")


def content_length(scope: dict[str, Any]) -> int:
    """Return the length in bytes that the request announces for its body; 0 if it announces none."""
    text = next((value for name, value in _headers(scope) if name == "content-length"), "0")
    # no body has a length of more digits, and Python refuses to read very long numbers
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def expects_continue(scope: dict[str, Any]) -> bool:
    """Return whether the client waits for the go-ahead before it sends its body."""
    return any(name == "expect" and value.lower() == "100-continue" for name, value in _headers(scope))


def _headers(scope: dict[str, Any]) -> list[tuple[str, str]]:
    pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
    # WSGI cannot tell X_Forwarded_For from X-Forwarded-For
    return [(name, value) for name, value in pairs if "_" not in name]


def _path(target: bytes) -> bytes:
    if target.startswith(b"/") or b"://" not in target:
        return target
    return urlsplit(target).path or b"/"


class _Silent:
    """The stream for a WSGI application's errors; ours logs them."""

    def write(self, text: str) -> int:
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Drop the lines."""

    def flush(self) -> None:
        """Do nothing."""
