"""Contact sheets are PNGs of the expected size, whatever the thumbnails and keys are."""

from __future__ import annotations

from io import BytesIO

import pytest
from PIL import Image

from imagekin_api.render import maps, sheets
from imagekin_api.render.sheets import Section, Tile
from kit import effort


def thumbnail(color: str = "#c04030", size: tuple[int, int] = (256, 192)) -> bytes:
    out = BytesIO()
    Image.new("RGB", size, color).save(out, "JPEG", quality=95)
    return out.getvalue()


def opened(png: bytes) -> Image.Image:
    image = Image.open(BytesIO(png))
    image.load()
    assert image.format == "PNG"
    return image


def pictures_width(columns: int) -> int:
    return 2 * sheets.MARGIN + columns * sheets.CARD_WIDTH + (columns - 1) * sheets.GAP


def picture_center(column: int, row: int = 0, above: int = 0) -> tuple[int, int]:
    x = sheets.MARGIN + column * (sheets.CARD_WIDTH + sheets.GAP) + sheets.CARD_WIDTH // 2
    card = sheets.PICTURE_HEIGHT + 2 * sheets.PADDING + sheets.TEXT_HEIGHT
    y = sheets.MARGIN + above + row * (card + sheets.GAP) + sheets.PADDING + sheets.PICTURE_HEIGHT // 2
    return x, y


@pytest.mark.parametrize("name", ["a" + "\u0301" * 200_000, "\u0301" * 200_000, "x" * 4_000_000, "漢\u0327" * 100_000])
def test_a_text_of_any_length_is_drawn_at_once(name: str) -> None:
    with effort.at_most(cpu_s=5):
        opened(sheets.search_sheet(thumbnail(), [Tile(thumbnail(), name, name) for _ in range(5)], query_caption=name))


def near(pixel: object, color: tuple[int, int, int]) -> bool:
    assert isinstance(pixel, tuple)
    return all(abs(a - b) < 12 for a, b in zip(pixel, color, strict=True))


def test_search_sheet_shows_the_query_first_then_the_neighbors_in_order() -> None:
    tiles = [Tile(thumbnail("#00ff00"), "0.9132", "a.jpg"), Tile(thumbnail("#0000ff"), "0.5000", "b.jpg")]
    sheet = opened(sheets.search_sheet(thumbnail("#ff0000"), tiles))
    assert sheet.size[0] == pictures_width(3)
    for column, color in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
        assert near(sheet.getpixel(picture_center(column)), color)


def test_title_and_caption_are_drawn() -> None:
    bare = sheets.search_sheet(None, [Tile(None, "", "")])
    titled = sheets.search_sheet(None, [Tile(None, "0.9132", "")])
    captioned = sheets.search_sheet(None, [Tile(None, "0.9132", "a.jpg")])
    assert len({bare, titled, captioned}) == 3


def test_cluster_sheet_marks_the_medoid() -> None:
    plain = [Tile(thumbnail(), "", f"{n}.jpg") for n in range(4)]
    marked = [Tile(thumbnail(), "", f"{n}.jpg", marked=n == 2) for n in range(4)]
    heading = sheets.cluster_title(0, 4, 0.83)
    assert heading == "cluster 0  ·  4 images  ·  cohesion 0.8300"
    assert sheets.distance_title(0.02) == "distance 0.020"
    assert sheets.cluster_sheet(heading, plain) != sheets.cluster_sheet(heading, marked)


def test_groups_are_drawn_below_each_other() -> None:
    groups = [
        Section("first", [Tile(thumbnail("#ff0000"), "", "a", marked=True), Tile(thumbnail("#00ff00"), "", "b")]),
        Section("second", [Tile(thumbnail("#0000ff"), "same", "c")]),
    ]
    sheet = opened(sheets.groups_sheet("groups", groups))
    above = sheets.HEADING_HEIGHT + sheets.SECTION_HEIGHT
    assert near(sheet.getpixel(picture_center(0, above=above)), (255, 0, 0))
    assert near(sheet.getpixel(picture_center(1, above=above)), (0, 255, 0))
    below = picture_center(0, row=1, above=above + sheets.SECTION_HEIGHT)
    assert near(sheet.getpixel(below), (0, 0, 255))
    assert sheet.height < opened(sheets.groups_sheet("groups", groups, note="page 1 of 2")).height
    opened(sheets.groups_sheet("groups", []))


@pytest.mark.parametrize("broken", [None, b"", b"no image at all", thumbnail()[:200]])
def test_a_missing_or_broken_thumbnail_gets_a_placeholder(broken: bytes | None) -> None:
    sheet = sheets.search_sheet(thumbnail(), [Tile(broken, "0.1", "a.jpg")])
    assert sheet == sheets.search_sheet(thumbnail(), [Tile(None, "0.1", "a.jpg")])


@pytest.mark.parametrize("size", [(1, 1), (2000, 3), (3, 2000), (256, 256)])
def test_a_picture_of_any_shape_stays_in_its_place(size: tuple[int, int]) -> None:
    sheet = opened(sheets.search_sheet(None, [Tile(thumbnail("#ff0000", size), "0.5", "a.jpg")]))
    assert sheet.size == opened(sheets.search_sheet(None, [Tile(None, "0.5", "a.jpg")])).size
    x, y = picture_center(1)
    around = [sheet.getpixel((x + dx, y + dy)) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
    assert any(near(pixel, (255, 0, 0)) for pixel in around)


@pytest.mark.parametrize(
    "key",
    [
        "k" * 1024,
        "家具/ソファ.jpg",
        "möbel/čalouněný.jpg",
        "a\nb\tc\x00.jpg",
        "\ud800.jpg",
        "🛋️.jpg",
        "كنبة.jpg",
        " ",
        "",
    ],
)
def test_odd_keys_are_drawn_inside_their_card(key: str) -> None:
    sheet = opened(sheets.cluster_sheet(key, [Tile(thumbnail(), key, key)]))
    assert sheet.size[0] == pictures_width(3)
    shown = sheets.shortened(key, sheets.PICTURE_WIDTH, 12)
    assert "\n" not in shown
    assert shown.isprintable()
    assert sheets.font(12).getlength(shown) <= sheets.PICTURE_WIDTH


def test_a_long_key_keeps_its_start_and_end() -> None:
    shown = sheets.shortened("archive/2019/" + "x" * 300 + "/IMG_7.jpg", 208, 12)
    assert shown.startswith("archive/20")
    assert shown.endswith("/IMG_7.jpg")
    assert "..." in shown
    assert sheets.shortened("short.jpg", 208, 12) == "short.jpg"


def test_characters_that_the_font_lacks_are_replaced() -> None:
    assert sheets.drawable("sofa-1.jpg") == "sofa-1.jpg"
    assert sheets.drawable("家.jpg") == "·.jpg"
    assert sheets.drawable("ž") in {"ž", "z"}


def test_no_tiles_make_a_sheet_all_the_same() -> None:
    assert opened(sheets.cluster_sheet("cluster 3", [])).size[0] == pictures_width(3)
    assert opened(sheets.search_sheet(thumbnail(), [])).size[0] == pictures_width(3)


def test_many_tiles_are_capped() -> None:
    tile = Tile(None, "", "a.jpg")
    full = opened(sheets.cluster_sheet("cluster 0", [tile] * sheets.MAX_TILES))
    capped = opened(sheets.cluster_sheet("cluster 0", [tile] * (sheets.MAX_TILES + 500)))
    assert full.size[0] == capped.size[0] == pictures_width(sheets.MAX_COLUMNS)
    assert capped.size[1] == full.size[1] + sheets.NOTE_HEIGHT
    told = opened(sheets.cluster_sheet("cluster 0", [tile] * sheets.MAX_TILES, total=10_000))
    assert told.size == capped.size


def test_a_map_has_thumbnails_where_they_have_room_and_dots_elsewhere() -> None:
    asked: list[str] = []

    def pictures(ids: list[str]) -> dict[str, bytes]:
        asked.extend(ids)
        return dict.fromkeys(ids, thumbnail("#ff0000"))

    rows = [{"id": str(at), "x": at % 2, "y": 1 - at % 2} for at in range(800)]
    sheet = opened(maps.picture("map", lambda: rows, len(rows), pictures))
    assert asked == ["0", "1"]
    pad = (sheet.width - maps.SIDE) // 2
    assert near(sheet.getpixel((pad + maps.SIDE, pad + sheets.HEADING_HEIGHT)), (255, 0, 0))
    assert opened(maps.picture("map", lambda: [], 0, pictures)).size[0] > maps.SIDE
    dot = opened(maps.picture("map", lambda: rows[:1], 1, lambda _: {}))
    pad = (dot.width - maps.SIDE) // 2
    assert near(dot.getpixel((pad, pad + sheets.HEADING_HEIGHT + maps.SIDE)), (0x2F, 0x6F, 0x73))
