"""Contact sheets drawn from stored thumbnails: what a search found, a cluster, groups of duplicates."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from io import BytesIO
from typing import Any

from PIL import Image, ImageDraw, ImageFont

MAX_TILES = 60
MAX_COLUMNS = 6

MARGIN, GAP = 28, 16
PICTURE_WIDTH, PICTURE_HEIGHT = 208, 156
PADDING = 8
# Below the picture: title and caption, or the caption alone.
TEXT_HEIGHT, CAPTION_HEIGHT = 46, 26
CARD_WIDTH = PICTURE_WIDTH + 2 * PADDING
HEADING_HEIGHT, SECTION_HEIGHT, NOTE_HEIGHT = 44, 34, 30

PAPER, CARD, _LINE, _MAT = "#f5f4f1", "#ffffff", "#dfdcd6", "#faf9f7"
INK, _SOFT_INK, _FAINT_INK, ACCENT = "#26282b", "#6d6f73", "#b9b6af", "#2f6f73"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet: its thumbnail (JPEG bytes, None if it has no thumbnail), title, and key as caption.

    `marked` highlights it: the medoid of a cluster.
    """

    thumbnail: bytes | None
    title: str
    caption: str
    marked: bool = False


@dataclass(frozen=True)
class Section:
    """Pictures that belong together, below a heading of their own."""

    heading: str
    tiles: Sequence[Tile]


def search_sheet(
    query: bytes | None,
    neighbors: Sequence[Tile],
    *,
    title: str | None = None,
    query_caption: str = "",
    total: int | None = None,
) -> bytes:
    """Draw the query, titled "original", and its neighbors as a PNG, under a heading if there is one.

    At most MAX_TILES pictures are drawn; `total` counts all neighbors, if there are more than are given.
    """
    tiles = [Tile(query, "original", query_caption, marked=True), *neighbors]
    return _sheet(title, tiles, None if total is None else total + 1)


def cluster_sheet(title: str, tiles: Sequence[Tile], *, total: int | None = None) -> bytes:
    """Draw one cluster as a PNG: its heading, its pictures, the marked one (the medoid) with a badge.

    At most MAX_TILES pictures are drawn; `total` counts all members, if there are more than are given.
    """
    return _sheet(title, tiles, total, badge="medoid")


def selection_sheet(title: str, tiles: Sequence[Tile], *, total: int) -> bytes:
    """Draw chosen images as a PNG, in the order chosen, at most MAX_TILES of `total`."""
    return _sheet(title, tiles, total)


def groups_sheet(title: str, groups: Sequence[Section], *, note: str = "") -> bytes:
    """Draw groups of near-duplicates as a PNG, one below the other, the marked pictures with a badge: keep them."""
    columns = max((min(len(group.tiles), MAX_COLUMNS) for group in groups), default=0)
    return _sections_sheet(title, groups, note, "keep", max(3, columns))


def sections_sheet(title: str, sections: Sequence[Section], *, note: str = "") -> bytes:
    """Draw shares of a split as a PNG, one below the other."""
    columns = max((min(len(section.tiles), MAX_COLUMNS) for section in sections), default=0)
    return _sections_sheet(title, sections, note, None, max(3, columns))


def outliers_sheet(title: str, pairs: Sequence[Tile], *, note: str = "") -> bytes:
    """Draw outliers as a PNG, each followed by its nearest one, three such pairs a row."""
    return _sections_sheet(title, [Section("", pairs)], note, None, MAX_COLUMNS)


def cluster_title(label: int, size: int, cohesion: float, view: str | None = None, name: str | None = None) -> str:
    """Return the heading of a cluster's sheet."""
    images = "image" if size == 1 else "images"
    parts = [f"cluster {label}", name, f"{size:,} {images}", f"cohesion {cohesion:.4f}", view]
    return "  ·  ".join(part for part in parts if part)


def view_title(summary: Mapping[str, Any]) -> str | None:
    """Return the view that a result was made in, in words; None if it does not say."""
    return f"{summary['view']['name']} view" if summary.get("view") else None


def similarity_title(score: float, duplicates: int = 0) -> str:
    """Return a neighbor's similarity in words, and how many near-duplicates it stands for."""
    copies = f"  ·  {duplicates:,} {'duplicate' if duplicates == 1 else 'duplicates'}" if duplicates else ""
    return f"{score:.4f}{copies}"


def distance_title(distance: float) -> str:
    """Return a member's distance to its cluster's center in words; a bare number would look like a similarity."""
    return f"distance {distance:.3f}"


def _sheet(heading: str | None, tiles: Sequence[Tile], total: int | None, badge: str | None = None) -> bytes:
    shown = tiles[:MAX_TILES]
    more = max(total or 0, len(tiles)) - len(shown)
    note = f"... and {more:,} more" if more > 0 else ""
    return _sections_sheet(heading, [Section("", shown)], note, badge, _columns(len(shown)))


def _sections_sheet(
    title: str | None, sections: Sequence[Section], note: str, badge: str | None, columns: int
) -> bytes:
    tiles = [tile for section in sections for tile in section.tiles]
    text_height = TEXT_HEIGHT if any(tile.title for tile in tiles) else CAPTION_HEIGHT
    card_height = PICTURE_HEIGHT + 2 * PADDING + text_height
    if not tiles:
        sections, note = [], "no images"
    heights = [_section_height(section, columns, card_height) for section in sections]
    width = 2 * MARGIN + columns * CARD_WIDTH + (columns - 1) * GAP
    top = MARGIN + (HEADING_HEIGHT if title else 0)
    grid = sum(heights) + GAP * max(0, len(heights) - 1)
    sheet = Image.new("RGB", (width, top + grid + (NOTE_HEIGHT if note else 0) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((MARGIN, MARGIN - 4), shortened(title, width - 2 * MARGIN, 22), INK, font(22))
    for section, height in zip(sections, heights, strict=True):
        upper = top
        if section.heading:
            draw.text((MARGIN, upper), shortened(section.heading, width - 2 * MARGIN, 17), INK, font(17))
            upper += SECTION_HEIGHT
        for number, tile in enumerate(section.tiles):
            row, column = divmod(number, columns)
            left, place = MARGIN + column * (CARD_WIDTH + GAP), upper + row * (card_height + GAP)
            _card(sheet, draw, (left, place, left + CARD_WIDTH - 1, place + card_height - 1), tile, badge)
        top += height + GAP
    if note:
        draw.text((MARGIN, top - GAP + 10 if tiles else top), note, _SOFT_INK, font(15))
    return png(sheet)


def _section_height(section: Section, columns: int, card_height: int) -> int:
    rows = math.ceil(len(section.tiles) / columns)
    return (SECTION_HEIGHT if section.heading else 0) + rows * card_height + (rows - 1) * GAP


def _columns(count: int) -> int:
    """Choose a grid that is a little wider than high, and never narrower than the heading."""
    return min(MAX_COLUMNS, max(3, math.ceil(math.sqrt(count * 1.5))))


def _card(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], tile: Tile, badge: str | None
) -> None:
    draw.rounded_rectangle(box, 6, CARD, ACCENT if tile.marked else _LINE, 2 if tile.marked else 1)
    place = (box[0] + PADDING, box[1] + PADDING)
    picture = opened(tile.thumbnail)
    draw.rectangle((*place, place[0] + PICTURE_WIDTH - 1, place[1] + PICTURE_HEIGHT - 1), _MAT)
    if picture:
        inset = ((PICTURE_WIDTH - picture.width) // 2, (PICTURE_HEIGHT - picture.height) // 2)
        sheet.paste(picture, (place[0] + inset[0], place[1] + inset[1]))
    else:
        _placeholder(draw, *place)
    if badge and tile.marked:
        _badge(draw, place[0] + 6, place[1] + 6, badge)
    text_top = place[1] + PICTURE_HEIGHT + 7
    title, caption = shortened(tile.title, PICTURE_WIDTH, 15), shortened(tile.caption, PICTURE_WIDTH, 12)
    if title:
        draw.text((place[0], text_top), title, ACCENT if tile.marked else INK, font(15))
    if caption:
        draw.text((place[0], text_top + (21 if title else 2)), caption, _SOFT_INK, font(12))


def opened(thumbnail: bytes | None, width: int = PICTURE_WIDTH, height: int = PICTURE_HEIGHT) -> Image.Image | None:
    """Decode a thumbnail and fit it into a tile of that size in pixels; None if it is missing or broken."""
    if not thumbnail:
        return None
    try:
        with Image.open(BytesIO(thumbnail), formats=("JPEG", "PNG", "WEBP")) as image:
            scale = min(width / image.width, height / image.height)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            # a JPEG that is drawn small need not be decoded large
            image.draft("RGB", size)
            return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _placeholder(draw: ImageDraw.ImageDraw, left: int, top: int) -> None:
    """Draw a frame with hills and a sun, the placeholder for a missing picture."""
    x, y = left + PICTURE_WIDTH // 2, top + PICTURE_HEIGHT // 2 - 8
    draw.rounded_rectangle((x - 30, y - 22, x + 30, y + 22), 5, None, _FAINT_INK, 2)
    draw.line((x - 24, y + 15, x - 9, y - 4, x + 2, y + 8, x + 10, y, x + 24, y + 15), _FAINT_INK, 2, joint="curve")
    draw.ellipse((x + 8, y - 14, x + 17, y - 5), None, _FAINT_INK, 2)
    draw.text((x, y + 38), "no thumbnail", _FAINT_INK, font(12), anchor="mm")


def _badge(draw: ImageDraw.ImageDraw, left: int, top: int, text: str) -> None:
    width = math.ceil(draw.textlength(text, font(12)))
    draw.rounded_rectangle((left, top, left + width + 14, top + 19), 9, ACCENT)
    draw.text((left + 7, top + 9), text, "#ffffff", font(12), anchor="lm")


def shortened(text: str, width_px: int, size_px: int) -> str:
    """Shorten a text in the middle until it fits a width."""
    # more than that cannot be shown, and the fonts of all marks on a character take long
    text, face = drawable(text if len(text) <= width_px else text[:width_px] + text[-width_px:]), font(size_px)
    if _fits(text, width_px, face):
        return text
    low, high = 0, min(len(text), width_px)
    while low < high:
        kept = (low + high + 1) // 2
        low, high = (kept, high) if _fits(_without_middle(text, kept), width_px, face) else (low, kept - 1)
    return _without_middle(text, low)


def drawable(text: str) -> str:
    """Replace what the font cannot show: accents it lacks are dropped, other characters become a middle dot."""
    return "".join(map(_drawable, unicodedata.normalize("NFC", text)))


@lru_cache(8192)
def _drawable(character: str) -> str:
    if character.isspace():
        return " "
    if _has_glyph(character):
        return character
    bare = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
    return bare if bare and all(map(_has_glyph, bare)) else "·"


def _has_glyph(character: str) -> bool:
    if not character.isprintable():
        return False
    # A private character stands for what no font has.
    return _shape(character) != _shape("\ue000")


def _shape(character: str) -> bytes:
    image = Image.new("L", (40, 40))
    ImageDraw.Draw(image).text((8, 8), character, 255, font(16))
    return image.tobytes()


def _fits(text: str, width_px: int, font: Font) -> bool:
    # Longer than that cannot fit, and need not be measured.
    return len(text) <= width_px and font.getlength(text) <= width_px


def _without_middle(text: str, kept: int) -> str:
    head = (kept + 1) // 2
    return f"{text[:head]}...{text[len(text) - (kept - head) :]}"


@cache
def font(size_px: int) -> Font:
    """Return the font of sheets in a size."""
    return ImageFont.load_default(size=size_px)


def png(sheet: Image.Image) -> bytes:
    """Return a drawn sheet as a PNG."""
    out = BytesIO()
    sheet.save(out, "PNG", optimize=False, compress_level=6)
    return out.getvalue()
