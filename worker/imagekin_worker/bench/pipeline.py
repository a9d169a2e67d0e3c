"""Whole embed jobs over HTTP, beside the rates of their own stages: pipeline, against the forward pass, overhead."""

from __future__ import annotations

import hashlib
import itertools
import os
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from imagekin.catalog import Space
from imagekin.settings import Settings
from imagekin_worker.bench import forward, original, pictures, timing
from imagekin_worker.bench.activity import Activity, Share
from imagekin_worker.bench.errors import NotMeasured
from imagekin_worker.bench.report import Figure
from imagekin_worker.bench.workbench import DEFAULT, RESNET, Workbench
from imagekin_worker.network import preprocess
from imagekin_worker.network.devices import cores
from imagekin_worker.pipeline.lanes import Arrangement, Pipeline

DECODED_PICTURES = 64


@dataclass(frozen=True, slots=True)
class Rates:
    """The rates of a job and its stages.

    They are images a second of whole jobs, of a worker's lanes without the service, of decode + hash + thumbnail on all
    cores, of the forward pass at its best, and of the original class; and what the worker's threads did while the jobs
    ran.
    """

    whole: float
    lanes: float
    decode: float
    forward: float
    original: original.Cost | None
    shares: list[Share]
    on_gpu: bool

    @property
    def ideal(self) -> float:
        """Both stages on the same cores, nothing lost between them."""
        return 1 / (1 / self.forward + 1 / self.decode)

    @property
    def share(self) -> Share | None:
        """The median of the jobs' shares."""
        if not self.shares:
            return None
        return Share(*(statistics.median(values) for values in zip(*self.shares, strict=True)))


def whole(bench: Workbench) -> Figure:
    """Measure whole jobs of the default backbone over the ideal of their stages."""
    rates = measured(bench, DEFAULT)
    ideal = min(rates.decode, rates.forward) if bench.on_gpu else rates.ideal
    return Figure(rates.whole, ideal, "images/s", rates.whole / ideal, _limit(rates), _details(rates))


def against_forward(bench: Workbench) -> Figure:
    """Measure whole jobs of resnet50 over its forward pass."""
    rates = measured(bench, RESNET)
    limit = f"decoding, {rates.forward / (rates.forward + rates.decode):.0%} of an image's time; {_limit(rates)}"
    return Figure(rates.whole, rates.forward, "images/s", rates.whole / rates.forward, limit, _details(rates))


def against_class(bench: Workbench) -> Figure:
    """Measure whole jobs of resnet50 over the original class; raises NotMeasured without its row."""
    rates, survey = measured(bench, RESNET), forward.survey(bench, RESNET)
    if (peer := rates.original) is None:
        raise NotMeasured("the class is only measured where its row was asked for")
    limit = (
        f"forward: it alone is {rates.forward / peer.rate:.3g} times the class, nothing but matrix products would be "
        f"{survey.ceiling / peer.rate:.3g} times; {survey.roofline}; the class: {1e3 / peer.rate:.3g} ms a picture, "
        f"all but {peer.decode_ms:.2g} of it in an eager pass that takes {peer.new_mib:.3g} MiB of new memory "
        f"({peer.system_ms:.3g} ms of a core in the system)"
    )
    return Figure(rates.whole, peer.rate, "images/s", rates.whole / peer.rate, limit, _details(rates))


def overhead(bench: Workbench) -> Figure:
    """Measure the share of a job's time in which no worker core works on an image; raises NotMeasured without /proc."""
    rates = measured(bench, DEFAULT)
    if (share := rates.share) is None:
        raise NotMeasured("threads are looked at through /proc, which only Linux has")
    limit = f"planning, claims and commits between the lanes' runs; {_busy(rates, share)}"
    return Figure(share.idle, 0.0, "of the time", share.idle, limit, _details(rates))


def measured(bench: Workbench, backbone: str) -> Rates:
    """Measure jobs and stages of a backbone in turns, once."""
    return bench.once(("rates", backbone), lambda: _measure(bench, backbone))


def prepare(data: bytes, space: Space, settings: Settings) -> None:
    """Do to one file what a lane does before the forward pass."""
    hashlib.sha256(data).hexdigest()
    picture, _ = preprocess.prepare(data, space, settings)
    preprocess.thumbnail(picture, settings.thumbnail_px)


def decode_rate(files: list[bytes], space: Space, settings: Settings, threads: int, least_s: float) -> float:
    """Measure `prepare` over files on some threads, in images a second."""
    turns = itertools.cycle(files)

    def work() -> int:
        prepare(next(turns), space, settings)
        return 1

    return timing.rate(work, least_s, threads)


def lanes_rate(bench: Workbench, backbone: str, folder: Path, arrangement: Arrangement) -> float:
    """Measure a worker's lanes over a folder, without jobs, database and other processes, in images a second."""
    paths = deque(sorted(folder.iterdir()))
    count = len(paths)

    def items() -> Iterator[Path]:
        while paths:
            yield paths.popleft()

    lanes = Pipeline(
        forward.backbone(bench, backbone), bench.settings, items(), Path.read_bytes,
        left=lambda: len(paths), arrangement=arrangement,
    )  # fmt: skip
    return count / timing.seconds(lambda: deque(lanes.outcomes(), maxlen=0))


def contents(folder: Path, count: int) -> list[bytes]:
    """Read the first files of a folder."""
    return [path.read_bytes() for path in sorted(folder.iterdir())[:count]]


def _measure(bench: Workbench, backbone: str) -> Rates:
    best = forward.survey(bench, backbone).best
    service, space, weights = bench.service(), bench.space(backbone), bench.weights(backbone)
    folder = bench.pictures(backbone)
    files = contents(folder, DECODED_PICTURES)
    shares: list[Share] = []
    costs: list[original.Cost] = []

    def job() -> float:
        with (
            service.collection(backbone, weights, bench.precision) as name,
            Activity(service.child("bulk"), others()) as activity,
        ):
            run = service.embed(folder, name)
        shares.append(activity.share(run.submitted, run.finished))
        return run.rate

    def others() -> list[int]:
        return [os.getpid(), *service.api(), *service.processes().values()]

    def decode(threads: int) -> Callable[[], float]:
        return lambda: decode_rate(files, space, bench.settings, threads, bench.sizes.rate_s)

    works: dict[str, Callable[[], float]] = {
        "whole": job,
        "one": decode(1),
        "all": decode(cores()),
        "forward": lambda: forward.rate(bench, backbone, best),
        "lanes": lambda: lanes_rate(bench, backbone, folder, Arrangement(best.lanes, best.intra_op, best.batch)),
    }
    if backbone == RESNET and not bench.asked.isdisjoint({"original-class", "original-class-gpu"}):
        few = sorted(folder.iterdir())[: bench.sizes.class_pictures]

        def peer() -> float:
            costs.append(original.cost(few, bench.space(backbone), bench.settings, bench.device))
            return costs[-1].rate

        works["original"] = peer
    warm = bench.drawn("warm", bench.sizes.warm_pictures, pictures.ORDINARY)
    service.warm(warm, backbone, weights, bench.precision)
    found = timing.in_turns(works, bench.sizes.repetitions)
    return Rates(
        found["whole"],
        found["lanes"],
        max(cores() * found["one"], found["all"]),
        found["forward"],
        original.Cost(*map(statistics.median, zip(*costs, strict=True))) if costs else None,
        shares,
        bench.on_gpu,
    )


def _limit(rates: Rates) -> str:
    stage = "forward" if rates.forward < rates.decode else "decode"
    busy = f"; {_busy(rates, rates.share)}" if rates.share else ""
    alone = f"lanes without the service reach {rates.lanes:.3g}/s"
    return f"{stage} ({rates.forward:.3g}/s; decode {rates.decode:.3g}/s on all cores; {alone}){busy}"


def _busy(rates: Rates, share: Share) -> str:
    """Say where the cores' time went, and whether lanes took more of it for an image than its stages alone."""
    took = f"lanes had {share.cores:.2f}"
    if not rates.on_gpu:
        image, alone = 1e3 * share.cores / rates.whole, 1e3 * cores() / rates.ideal
        took += f" ({image:.3g} ms an image; its stages alone {alone:.3g})"
    nobody = cores() - share.cores - share.main - share.others - share.stolen
    return (
        f"of {cores()} cores {took}, planning and commits {share.main:.2f}, API and client {share.others:.2f}, "
        f"the machine's host {share.stolen:.2f}, idle {nobody:.2f}"
    )


def _details(rates: Rates) -> dict[str, float]:
    found = {name: getattr(rates, name) for name in ("whole", "lanes", "decode", "forward", "ideal")}
    if rates.original:
        found |= {"original": rates.original.rate} | {
            f"original_{name}": value for name, value in rates.original._asdict().items() if name != "rate"
        }
    if rates.share:
        found |= {
            "idle_share": rates.share.idle,
            "lane_cores": rates.share.cores,
            "main_thread_cores": rates.share.main,
            "other_processes_cores": rates.share.others,
            "stolen_cores": rates.share.stolen,
        }
    return {name: round(value, 4) for name, value in found.items()}
