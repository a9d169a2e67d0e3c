"""The API's port: free before anything starts, and ready when everything has."""

from __future__ import annotations

import http.client
import random
import socket

from imagekin.stack.errors import PortTaken

# Systems give none of these to who asks for any port or connects to somebody (Linux begins at 32768, others at 49152):
# a port that the system chose could be another's by the time that the API, seconds later, listens on it.
UNASSIGNED = range(20_000, 32_768)
ATTEMPTS = 20


def claim(host: str, port: int) -> int:
    """Return the port if the API can listen on it, for 0 a free one; raises PortTaken."""
    if port:
        return _bound(host, port)
    *others, last = random.sample(UNASSIGNED, ATTEMPTS)
    for each in others:
        try:
            return _bound(host, each)
        except PortTaken:
            continue
    return _bound(host, last)


def _bound(host: str, port: int) -> int:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return probe.getsockname()[1]
    except OSError as error:
        reason = error.strerror or error
        raise PortTaken(f"cannot listen on {host}:{port}: {reason}; choose another IMAGEKIN_PORT") from error


def local_host(host: str) -> str:
    """Return the address at which this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)


def url(host: str, port: int) -> str:
    """Return the URL at which this machine reaches the API."""
    name = local_host(host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def answers(host: str, port: int, path: str = "/readyz", timeout_s: float = 2) -> bool:
    """Return whether a GET on the path answers 200; no proxy is asked."""
    connection = http.client.HTTPConnection(local_host(host), port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
