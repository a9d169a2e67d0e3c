"""How much of each thing is measured: in earnest, or quickly for trying."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """Counts, and the shortest time in seconds of one measurement of a rate.

    `repetitions`: how often what belongs together is measured in turns. `warm_pictures` make a worker load a backbone
    and know its speed before anything is timed. `slow_pictures` go through resnet50, `class_pictures` through the
    original class, which keeps about 0.2 GB of each.
    """

    repetitions: int = 3
    rate_s: float = 1.0
    warm_pictures: int = 32
    pictures: int = 1000
    slow_pictures: int = 200
    class_pictures: int = 24
    large_pictures: int = 300
    large_drawn: int = 24
    search_rows: int = 100_000
    search_repeats: int = 15
    service_rows: int = 10_000
    searches: int = 30
    submits: int = 20
    kmeans_rows: int = 50_000
    kmeans_clusters: int = 100
    iterations: int = 12
    peer_rows: int = 1_500
    peer_clusters: int = 50
    pair_rows: int = 100_000
    selected: int = 1_000
    map_rows: int = 10_000
    load_rows: int = 20_000
    few_images: int = 1_000
    many_images: int = 10_000


FULL = Sizes()
QUICK = Sizes(
    repetitions=1,
    rate_s=0.1,
    warm_pictures=4,
    pictures=32,
    slow_pictures=6,
    class_pictures=2,
    large_pictures=4,
    large_drawn=2,
    search_rows=5_000,
    search_repeats=3,
    service_rows=500,
    searches=3,
    submits=3,
    kmeans_rows=8_000,
    kmeans_clusters=20,
    iterations=6,
    peer_rows=300,
    peer_clusters=8,
    pair_rows=3_000,
    selected=50,
    map_rows=500,
    load_rows=2_000,
    few_images=64,
    many_images=256,
)
