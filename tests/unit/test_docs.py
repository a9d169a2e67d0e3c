"""The documentation: made anew it is the same, and what it names is there."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from imagekin.settings import Settings
from imagekin_worker.process import LANE_VARIABLE

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
# What the client and the command line read beside the settings.
OTHER_VARIABLES = {"IMAGEKIN_URL", "IMAGEKIN_API_KEY", LANE_VARIABLE}
SPACED = re.compile(r"\b(GET|POST|PATCH|DELETE) (/[\w/{}.-]*)")
ANY_PATH = re.compile(r"(/v1(?:/[\w{}$.-]+)+)")
COMMAND = re.compile(r"^(?:[A-Z_]+=\S* )*imagekin ([a-z].*)$", re.M)


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate"] = module
    spec.loader.exec_module(module)
    return module


generate = _generator()


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", generate.pages())
def test_reference_pages_are_those_of_the_code(page: str) -> None:
    written = (DOCS / "reference" / page).read_text()
    assert written == generate.text(generate.pages()[page]), "run `make docs`"


def test_the_map_is_that_of_the_modules() -> None:
    assert generate.MAP.read_text() == generate.text(generate.map_page), "run `make docs`"


@pytest.mark.parametrize("package", generate.PACKAGES)
def test_every_module_has_a_docstring(package: str) -> None:
    lines = generate.module_lines(package)
    assert lines
    assert not [str(path) for path, line in lines.items() if not line]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_index_leads_to_every_page() -> None:
    index = (DOCS / "README.md").read_text()
    linked = {(DOCS / target.partition("#")[0]).resolve() for target in re.findall(r"\]\(([^)\s]+)\)", index)}
    missing = {name(page) for page in DOCS.rglob("*.md") if page != DOCS / "README.md" and page not in linked}
    assert not missing, "docs/README.md should lead to them"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_variables_are_settings(page: Path) -> None:
    known = {f"IMAGEKIN_{field.upper()}" for field in Settings.model_fields} | OTHER_VARIABLES
    assert set(re.findall(r"\bIMAGEKIN_[A-Z_]*[A-Z]\b", page.read_text())) - known == set()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_and_their_options_are_there(page: Path) -> None:
    known = {tuple(words): command for words, command in generate.commands()}
    for call in calls(page.read_text()):
        words = call.split()
        found = known.get((words[0], words[1] if len(words) > 1 else "")) or known.get((words[0],))
        assert found is not None or words[0].startswith("-"), call
        assert not hasattr(found, "commands") or len(words) == 1 or words[1].startswith("-"), call
        options = {option for each in getattr(found, "params", ()) for option in (*each.opts, *each.secondary_opts)}
        named = {word.split("=")[0] for word in words if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)}
        assert named - options - {"--help", "-h", "--url", "--version"} == set(), call


def calls(text: str) -> Iterator[str]:
    """Yield what follows `imagekin` in code, lines of blocks and pieces in backticks; of `jobs a|b` both."""
    blocks = "\n".join(
        re.findall(r"^```(?:sh|console)\n(.*?)^```", text, re.M | re.S) + re.findall(r"^    (.*)$", text, re.M)
    )
    pieces = re.findall(r"(?<!`)`(imagekin [^`\n]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.S))
    for found in COMMAND.findall("\n".join([blocks.replace("\\\n", " "), *pieces])):
        command = re.split(r"\s[|#>&]|\s2>|;", found)[0].strip()
        first, _, rest = command.partition(" ")
        second, _, more = rest.partition(" ")
        yield from (f"{first} {each} {more}".strip() for each in second.split("|"))


def rules() -> list[tuple[re.Pattern[str], set[str]]]:
    """Return the addresses of the API as patterns, each argument anything without a slash, and their methods."""
    return [
        (re.compile(re.sub(r"<[^>]+>", "[^/]+", rule.rule)), set(rule.methods or ()))
        for rule in generate.app().url_map.iter_rules()
    ]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_addresses_are_those_of_the_api(page: Path) -> None:
    known, text = rules(), page.read_text()
    for path in ANY_PATH.findall(text):
        assert any(pattern.fullmatch(path.rstrip(".")) for pattern, _ in known), path
    for method, path in ((method, path.rstrip(".")) for method, path in SPACED.findall(text)):
        assert any(pattern.fullmatch(path) and method in methods for pattern, methods in known), f"{method} {path}"
