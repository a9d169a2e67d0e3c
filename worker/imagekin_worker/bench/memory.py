"""A job's peak memory by the number of its images, with the fake backbone: nothing but the service itself grows."""

from __future__ import annotations

from pathlib import Path

from imagekin import catalog
from imagekin_worker.bench import pictures
from imagekin_worker.bench.errors import NotMeasured
from imagekin_worker.bench.report import Figure
from imagekin_worker.bench.service import Service
from imagekin_worker.bench.workbench import Workbench

_MIB = 1 << 10


def figure(bench: Workbench) -> Figure:
    """Measure the peaks of worker and API over a large job, over those of a small one; the larger ratio counts."""
    few, many = bench.sizes.few_images, bench.sizes.many_images
    settings = bench.settings.model_copy(
        update={"data_dir": bench.folder / "memory", "warm": (catalog.FAKE_BACKBONE,), "device": "cpu"}
    )
    with Service(settings) as service:
        _peaks_of(service, pictures.tiny(bench.folder / "tiny-warm", few))
        idle = {name: max(map(_resident_kib, pids)) for name, pids in _watched(service).items()}
        small = _peaks_of(service, pictures.tiny(bench.folder / "tiny-few", few))
        large = _peaks_of(service, pictures.tiny(bench.folder / "tiny-many", many))
    ratios = {name: large[name] / small[name] for name in small}
    name = max(ratios, key=lambda each: ratios[each])
    limit = "; ".join(
        f"{each}: idle {idle[each] / _MIB:.0f}, {small[each] / _MIB:.0f} at {few:,} images, "
        f"{large[each] / _MIB:.0f} at {many:,}"
        for each in small
    )
    details = {"few": few, "many": many, "idle_kib": idle, "few_kib": small, "many_kib": large}
    return Figure(large[name] / _MIB, small[name] / _MIB, "MiB", ratios[name], limit, details)


def _peaks_of(service: Service, folder: Path) -> dict[str, int]:
    """Run a job and return the largest resident sets while it ran, in KiB."""
    watched = _watched(service)
    for pids in watched.values():
        for pid in pids:
            _forget_peak(pid)
    with service.collection(catalog.FAKE_BACKBONE) as name:
        service.embed(folder, name)
    return {name: max(map(_peak_kib, pids)) for name, pids in watched.items()}


def _watched(service: Service) -> dict[str, list[int]]:
    return {"worker": [service.child("bulk")], "api": service.api()}


def _forget_peak(pid: int) -> None:
    # proc(5): writing 5 to clear_refs sets the peak back to what is resident now
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError as error:
        raise NotMeasured(f"a process's peak cannot be set back here: {error}") from error


def _peak_kib(pid: int) -> int:
    return _status(pid, "VmHWM:")


def _resident_kib(pid: int) -> int:
    return _status(pid, "VmRSS:")


def _status(pid: int, name: str) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().partition(name)[2].split()[0])
