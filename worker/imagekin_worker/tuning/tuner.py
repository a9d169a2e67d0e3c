"""Makes backbones faster once they have worked long enough for that to pay.

First it finds the best arrangement of the cores, then it compiles the network. Each takes seconds to a minute, once;
the results are kept for other and later processes of the machine. A job that is shorter than this never waits for it; a
longer one pays at most as much as it saves.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import structlog

from imagekin.settings import Settings
from imagekin_worker.network.backbones import Backbone, TorchBackbone
from imagekin_worker.pipeline.lanes import Arrangement, arrangement_of
from imagekin_worker.tuning import cache_key, calibration, compiled
from imagekin_worker.tuning.compile import Order

log = structlog.get_logger()

CALIBRATION_S = 4.0
STOP_S = 5.0


class Tuner:
    """What one process has learned about running its backbones fast. Not for several threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._worked_s: dict[str, float] = defaultdict(float)
        self._arrangements: dict[str, Arrangement] = {}
        self._compilation: Compilation | None = None
        self._calibrated: set[str] = set()
        self._begun: set[str] = set()
        # files that could not be loaded: once told, and not tried in each claim
        self._unusable: set[Path] = set()

    def arrangement(self, backbone: Backbone) -> Arrangement:
        """Return how the cores should share a backbone's work, by the calibration if there was one."""
        self.use_compiled(backbone)
        return self._arranged(backbone)

    def use_compiled(self, backbone: Backbone) -> None:
        """Switch a backbone to its compiled network, if one is kept that is not in use yet."""
        if not isinstance(backbone, TorchBackbone) or not self._settings.compile_after_s:
            return
        order = self._order(backbone)
        if backbone.compiled_from == order.path or order.path in self._unusable or not order.path.exists():
            return
        try:
            backbone.switch(compiled.load(order.path, backbone.device, order.batch, order.threads))
        except (ImportError, OSError, RuntimeError) as error:
            self._unusable.add(order.path)
            log.warning("compiled_network_unusable", path=str(order.path), error=str(error).splitlines()[0])
        else:
            log.info("compiled_network_used", backbone=backbone.space.backbone)

    def worked(self, backbone: Backbone, images: int, seconds: float) -> None:
        """Record a backbone's work, and tune it once that pays; call it between two claims."""
        name = backbone.space.fingerprint
        self._worked_s[name] += seconds
        if not isinstance(backbone, TorchBackbone) or not images:
            return
        if not backbone.on_gpu and name not in self._calibrated and self._has_worked(name, "calibrate_after_s"):
            self._calibrated.add(name)
            self._calibrate(backbone, images / seconds)
        if self._compilation is not None:
            self._look_after(self._compilation)
        elif self._has_worked(name, "compile_after_s"):
            self._compile(backbone)

    @property
    def compiling(self) -> bool:
        """Whether a network is being compiled, or is compiled and not in use yet."""
        return self._compilation is not None

    def close(self) -> None:
        """Stop compiling."""
        if self._compilation is not None:
            self._compilation.stop()
            self._compilation = None

    def _has_worked(self, name: str, setting: str) -> bool:
        return 0 < getattr(self._settings, setting) <= self._worked_s[name]

    def _calibrate(self, backbone: TorchBackbone, images_per_s: float) -> None:
        name = backbone.space.fingerprint
        if calibration.least_seconds(self._arrangements[name], images_per_s) > CALIBRATION_S:
            log.info("not_calibrated", backbone=backbone.space.backbone, reason="a few seconds are too short")
            return
        self._arrangements[name] = calibration.calibrate(backbone, self._settings, CALIBRATION_S)

    def _compile(self, backbone: TorchBackbone) -> None:
        """Begin to compile a network, once in this process."""
        order = self._order(backbone)
        if order.done or backbone.space.fingerprint in self._begun:
            return
        self._begun.add(backbone.space.fingerprint)
        if reason := self._why_not(backbone):
            log.info("not_compiled", backbone=backbone.space.backbone, reason=reason)
            return
        self._compilation = Compilation(order, backbone)

    def _why_not(self, backbone: TorchBackbone) -> str:
        """Return why a network is not compiled; nothing if it can be."""
        if not backbone.compiles:
            return "its file cannot be compiled"
        if not compiled.available(backbone.device):
            return 'there is no OpenVINO: "imagekin[cpu]"'
        copies = backbone.nbytes * self._arranged(backbone).lanes
        # on a GPU there is one
        if copies > self._settings.model_memory_bytes and not backbone.on_gpu:
            return f"a copy for each lane takes {copies} bytes, more than IMAGEKIN_MODEL_MEMORY_BYTES"
        return ""

    def _look_after(self, compilation: Compilation) -> None:
        if compilation.ended:
            compilation.report()
            self._compilation = None
            self.use_compiled(compilation.backbone)

    def _arranged(self, backbone: Backbone) -> Arrangement:
        name = backbone.space.fingerprint
        if name not in self._arrangements:
            found = None if backbone.on_gpu else calibration.kept(backbone, self._settings)
            self._arrangements[name] = found or arrangement_of(backbone, self._settings)
            if found is not None:
                self._calibrated.add(name)
        return self._arrangements[name]

    def _order(self, backbone: TorchBackbone) -> Order:
        arrangement, device = self._arranged(backbone), backbone.device
        fitting = f"{arrangement.threads}.xml" if device.type == "cpu" else f"{arrangement.batch}.pt2"
        name = f"{backbone.space.fingerprint}-{device.type}-{fitting}"
        path = cache_key.folder(self._settings, "compiled") / name
        weights_dir = self._settings.weights_dir.resolve()
        return Order(backbone.space, weights_dir, str(device), arrangement.batch, arrangement.threads, path)


class Compilation:
    """A process that compiles one network; see compiler."""

    def __init__(self, order: Order, backbone: TorchBackbone) -> None:
        self.backbone = backbone
        self._order = order
        self._started = time.monotonic()
        # a file, as a pipe that nobody empties fills up
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  closed in `report` or `stop`
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "imagekin_worker.tuning.compile"],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            # its own group, with which it ends itself and the C++ compiler
            start_new_session=True,
            env={**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1"},
        )
        log.info("compiling", backbone=order.space.backbone, batch=order.batch)
        assert self._process.stdin is not None
        # a process that died at once is found dead later
        with suppress(BrokenPipeError):
            self._process.stdin.write(order.to_json().encode() + b"\n")
            self._process.stdin.flush()

    @property
    def ended(self) -> bool:
        """Whether the process has ended, in any way."""
        return self._process.poll() is not None

    def report(self) -> None:
        """Log how it ended."""
        said = self._said()
        about = {"backbone": self._order.space.backbone, "seconds": round(time.monotonic() - self._started, 1)}
        if self._process.returncode:
            log.warning("not_compiled", reason=said, **about)
        else:
            log.info("compiled", **about, **(json.loads(said) if said.startswith("{") else {}))

    def stop(self) -> None:
        """End the process, by closing the pipe to it."""
        self._close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()

    def _said(self) -> str:
        """Return the last line of its output: an error's message, or the figures of a trial."""
        self._close()
        with self._output as output:
            output.seek(0)
            lines = output.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _close(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
