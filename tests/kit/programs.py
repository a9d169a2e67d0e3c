"""Small programs in the place of imagekin's own processes, and looks at what runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from imagekin import stack

SLEEP = "import time; time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); {SLEEP}"
# Notes its pid and environment, starts a child that ignores SIGTERM, and says when it was stopped.
PROGRAM = """
import json, os, pathlib, signal, socket, subprocess, sys
folder = pathlib.Path(os.environ["IMAGEKIN_DATA_DIR"])
name = sys.argv[-1]
assert (folder / "migrated").exists()
if name == os.environ.get("CRASH"):
    sys.exit(f"{name} does not like its settings")
def stop(*_):
    if name == os.environ.get("STUBBORN"):
        return
    with socket.socket(socket.AF_UNIX) as redis:
        redis.connect(os.environ["IMAGEKIN_REDIS_URL"].removeprefix("unix://").removesuffix("?db=0"))
    with (folder / "stopped").open("a") as stopped:
        stopped.write(name + "\\n")
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
helper = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 1; done"])
notes = {"pids": [os.getpid(), helper.pid], "session": os.getsid(0), "env": dict(os.environ)}
(folder / "new").with_suffix("." + name).write_text(json.dumps(notes))
(folder / "new").with_suffix("." + name).rename(folder / f"{name}.json")
"""
WAIT = "while True: signal.pause()\n"
SERVE = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        workers = [folder / "interactive.json", folder / "bulk.json"]
        self.send_response(200 if all(path.exists() for path in workers) else 503)
        self.end_headers()
HTTPServer(("127.0.0.1", int(os.environ["IMAGEKIN_PORT"])), Handler).serve_forever()
"""
MODULES = {
    "imagekin_migrations": "import os, pathlib\npathlib.Path(os.environ['IMAGEKIN_DATA_DIR'], 'migrated').touch()",
    "imagekin_worker": PROGRAM + WAIT,
    "imagekin_api": PROGRAM.replace("sys.argv[-1]", "'api'") + SERVE,
}
# With PATIENCE_S set, a stop waits so long for each of its processes.
DRIVER = """
import dataclasses, os, sys
from imagekin import stack
from imagekin.settings import Settings
from imagekin.stack import embedded, supervisor
if "PATIENCE_S" in os.environ:
    supervisor.STOP_S, services = float(os.environ["PATIENCE_S"]), embedded.services
    def patient(settings):
        return [[dataclasses.replace(one, grace_s=supervisor.STOP_S) for one in stage] for stage in services(settings)]
    embedded.services = patient
try:
    with stack.Stack(Settings(data_dir=sys.argv[1], port=0), log=lambda line: print(line, flush=True)) as running:
        print("up", flush=True)
        running.wait()
except KeyboardInterrupt:
    pass  # it came before the wait
print("down", flush=True)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def python(code: str, name: str = "program", **options: Any) -> stack.Service:
    return stack.Service(name, [sys.executable, "-I", "-S", "-c", code], **options)


def pids(data: Path) -> list[int]:
    """Return all processes of a running stack: what it recorded, and the children of its services."""
    recorded = [pid for pid, _ in json.loads((data / "run" / "processes.json").read_text())["services"].values()]
    return recorded + [pid for path in data.glob("*.json") for pid in json.loads(path.read_text())["pids"]]
