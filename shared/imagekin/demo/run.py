"""`imagekin demo`: embeds pictures, searches and clusters them over HTTP, and prints the results."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from imagekin.client import Client, Job
from imagekin.client.progress import JobBar, UploadBar
from imagekin.demo import furniture
from imagekin.enums import ItemStatus
from imagekin.schemas import ClusterResult, EmbedResult, Neighbor, SearchResult

TOP_K = 5
QUERIES = 3
MAX_GROUPS = 12
# Where own pictures are looked for as queries; an archive need not be listed to its end.
LISTED_IMAGES = 3000
SHOWN_FAILURES = 5

# The class and the theme of a picture, by its key.
Label = Callable[[str], tuple[str, str]]


@dataclass(frozen=True)
class Search:
    """One search: its query, what was found, and how many of these share the query's theme."""

    key: str
    neighbors: list[Neighbor]
    same_theme: int | None


@dataclass(frozen=True)
class Grouping:
    """One clustering: sizes by label, and the purity by class and by theme where these are known."""

    n_clusters: int
    sizes: list[int]
    class_purity: float | None
    theme_purity: float | None


@dataclass(frozen=True)
class Figures:
    """What a demonstration came to."""

    collection: str
    embedded: EmbedResult
    images_per_s: float | None
    searches: list[Search]
    groupings: list[Grouping]
    sheets: list[Path]


def demonstrate(client: Client, own: Path | None, data_dir: Path, console: Console) -> Figures:
    """Run the demonstration on the caller's own folder, or on the package's thirty pictures, sent over HTTP.

    Contact sheets go to `data_dir`/sheets/<collection>. Raises the job's error where no picture could be embedded.
    """
    if own is not None:
        name = _collection(own)
        return run(client, own, data_dir / "sheets" / name, console, collection=name)
    out = data_dir / "sheets" / "demo"
    return run(client, furniture.FOLDER, out, console, collection="demo", label=furniture.label)


def run(
    client: Client, folder: Path, out: Path, console: Console, *, collection: str, label: Label | None = None
) -> Figures:
    """Embed the pictures of a folder, search, cluster, print the tables and write the contact sheets.

    label: class and theme of a key; then the first picture of each theme is searched for, k is 6 and 3, and the shares
    are printed. Without it, queries are picked evenly and k is about the root of half the number of pictures.
    """
    out.mkdir(parents=True, exist_ok=True)
    # The package's pictures stand for a remote client's; a folder of the caller's need not be copied.
    job = _embed(client, folder, collection, upload=True if label else None)
    embedded = job.result()
    _print_embedded(console, job, embedded)
    keys = [image.key for image in itertools.islice(client.images(collection), LISTED_IMAGES)]
    sheets: list[Path] = []
    searches = [_search(client, console, folder, out, collection, key, label, sheets) for key in _queries(keys, label)]
    count = client.collection(collection).image_count
    groupings = [
        _group(client, console, out, collection, k, label, sheets) for k in _group_counts(count, label is not None)
    ]
    figures = Figures(collection, embedded, job.progress.images_per_s, searches, groupings, sheets)
    _print_summary(console, figures, out)
    return figures


def purity(groups: Sequence[Sequence[Any]]) -> float:
    """Return the share of members that belong to the most frequent kind of their group.

    Manning, Raghavan, Schütze: Introduction to Information Retrieval, 2008, equation 16.1.
    """
    members = sum(map(len, groups))
    return sum(Counter(group).most_common(1)[0][1] for group in groups if group) / members if members else 0.0


# --- the three jobs --------------------------------------------------------------------------------------------


def _embed(client: Client, folder: Path, collection: str, *, upload: bool | None) -> Job[EmbedResult]:
    with UploadBar() as bar:
        job = client.embed(folder, collection, upload=upload, on_upload=bar.show)
        bar.finish()
    return _followed(job)


def _search(
    client: Client,
    console: Console,
    folder: Path,
    out: Path,
    collection: str,
    key: str,
    label: Label | None,
    sheets: list[Path],
) -> Search:
    # The package's pictures go as files, which find themselves first; a stored one is left out of its own neighbors.
    query: dict[str, Any] = {"picture": folder / key} if label else {"image_key": key}
    job = client.search_job(**query, collection=collection, top_k=TOP_K)
    result: SearchResult = job.result()
    same = sum(label(found.key) == label(key) for found in result.neighbors) if label else None
    title = f"Most similar to {key}" + ("" if same is None else f": {same} of {len(result.neighbors)} share its theme")
    table = _table("rank", "similarity", "picture")
    for found in result.neighbors:
        style = "" if label is None or label(found.key) == label(key) else "yellow"
        table.add_row(str(found.rank), f"{found.score:.3f}", Text(found.key, style=style))
    _print_table(console, title, table)
    sheets.append(_write(out / f"search-{_slug(key)}.png", job.sheet()))
    return Search(key, result.neighbors, same)


def _group(
    client: Client, console: Console, out: Path, collection: str, k: int, label: Label | None, sheets: list[Path]
) -> Grouping:
    job = client.cluster(collection, k)
    result: ClusterResult = _followed(job).result()
    members: dict[int, list[str]] = {found.label: [] for found in result.clusters}
    for assignment in result.assignments:
        members[assignment.label].append(assignment.key)
    themes = [[label(key) for key in keys] for keys in members.values()] if label else []
    classes = [[kind for kind, _ in group] for group in themes]
    grouping = Grouping(
        k,
        [found.size for found in result.clusters],
        purity(classes) if label else None,
        purity(themes) if label else None,
    )
    table = _table("cluster", "pictures", "cohesion", "what is in it" if label else "medoid")
    for found in result.clusters:
        content = _content(themes[found.label]) if label else found.medoid.key
        table.add_row(str(found.label), str(found.size), f"{found.cohesion:.3f}", Text(content))
    _print_table(console, _group_title(grouping), table)
    sheets += [_write(out / f"cluster-k{k}-{found.label}.png", job.sheet(found.label)) for found in result.clusters]
    return grouping


def _followed(job: Job[Any]) -> Job[Any]:
    with JobBar() as bar:
        bar.show(job.data)
        return job.wait(lambda job: bar.show(job.data)).raise_for_status()


# --- choices ---------------------------------------------------------------------------------------------------


def _queries(keys: Sequence[str], label: Label | None) -> list[str]:
    if label:
        first: dict[tuple[str, str], str] = {}
        for key in sorted(keys):
            first.setdefault(label(key), key)
        return list(first.values())
    step = max(1, len(keys) // QUERIES)
    return list(keys[::step][:QUERIES])


def _group_counts(count: int, labelled: bool) -> list[int]:
    if labelled:
        return [6, 3]
    return [min(MAX_GROUPS, max(2, round(math.sqrt(count / 2))))] if count > 2 else []


def _collection(folder: Path) -> str:
    """Name a folder's collection, so that two folders of one name don't meet in one."""
    return f"{_slug(folder.name)}-{hashlib.sha256(bytes(folder)).hexdigest()[:6]}"


def _slug(name: str) -> str:
    stem = PurePosixPath(name).with_suffix("").as_posix() if name else ""
    return re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-")[:60] or "pictures"


# --- words and tables ------------------------------------------------------------------------------------------


def _print_embedded(console: Console, job: Job[EmbedResult], result: EmbedResult) -> None:
    names = ("embedded", "reused", "skipped", "failed", "ignored")
    counts = ", ".join(f"{number:,} {name}" for name in names if (number := getattr(result, name)))
    rate = f" at {job.progress.images_per_s:.0f} images/s" if job.progress.images_per_s else ""
    console.print(Text(f"\n{result.total:,} pictures: {counts}{rate}"), highlight=False)
    for item in itertools.islice(job.items(ItemStatus.FAILED), SHOWN_FAILURES):
        console.print(Text(f"  {item.key}: {item.error.detail if item.error else 'failed'}", style="yellow"))
    if result.failed > SHOWN_FAILURES:
        console.print(f"  and {result.failed - SHOWN_FAILURES:,} more", highlight=False)


def _print_summary(console: Console, figures: Figures, out: Path) -> None:
    known = [search for search in figures.searches if search.same_theme is not None]
    if known:
        shares = sum(search.same_theme or 0 for search in known)
        found = sum(len(search.neighbors) for search in known)
        console.print(f"\nSearch: {shares} of {found} pictures found share the theme of their query.", highlight=False)
    for grouping in figures.groupings:
        if grouping.class_purity is not None and grouping.theme_purity is not None:
            console.print(
                f"k={grouping.n_clusters}: purity {grouping.class_purity:.2f} by class, "
                f"{grouping.theme_purity:.2f} by theme.",
                highlight=False,
            )
    console.print(Text(f"\n{len(figures.sheets)} contact sheets in {out.resolve()}"), highlight=False, soft_wrap=True)


def _group_title(grouping: Grouping) -> str:
    return f"{grouping.n_clusters} clusters" + (
        "" if grouping.class_purity is None else f": purity {grouping.class_purity:.2f} by class"
    )


def _content(group: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{count} {kind} {theme}" for (kind, theme), count in Counter(group).most_common())


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, justify="left" if column == columns[-1] else "right")
    return table


def _print_table(console: Console, title: str, table: Table) -> None:
    console.print()
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(table, soft_wrap=False)


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
