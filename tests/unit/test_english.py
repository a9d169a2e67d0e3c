"""Plain English: no strained words in texts, and docstrings that give shapes and errors (style: CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("shared/imagekin", "api/imagekin_api", "worker/imagekin_worker", "migrations/imagekin_migrations")
SOURCES = tuple(sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")))
PROGRAMS = (ROOT / "docs" / "generate.py", *sorted((ROOT / "examples").glob("*.py")))
# the map and the reference are made from the code, whose texts are looked at where they stand
PAGES = tuple(
    path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
    if path.name != "map.md" and path.parent.name != "reference"
)
SCREENS = tuple(sorted(path for path in (ROOT / "web" / "src").rglob("*") if path.suffix in {".ts", ".tsx", ".html"}))

STRAINED = re.compile(
    r"""
    \b(?: [Nn]obody | [Ww]hoever | [Ww]homever | [Ww]hom | [Ww]hatever | [Ww]hichever | [Ss]omebody | [Aa]nybody
      | [Ee]verybody | anew | so\ many | so\ few | be\ it | all\ in\ all | but\ for | for\ want\ of | alike )\b
    | \b(?: is | are | was | were | be | has | have | had | of | but )\ none\b
    | \bnone\ (?: is | are | was | were | does | do | has | had | where )\b
    | (?<![Tt]here\ )\b(?: is | are | was | were )\ no\b(?!\ longer)
    | \b(?: is | are | were | not )\ such\b | \bno\ such\b | \bany\ more\b | \bonce\ more\b
    | (?<!people\ )(?<!those\ )(?<!person\ )\b[Ww]ho\b
    | \b(?: is | are | was | were )\ to\ be\b | \bbe\ had\b
    | \b(?: comes? | came )\ (?: out | to\ nothing | to\ no )\b
    | \b(?: goes | go | went | going )\ on\b | \bGo\ on\b
    | \bNone\ where\b | \b[Rr]aises?\ \w+\ where\b
    """,
    re.VERBOSE,
)
ARRAYS = re.compile(r"\b(?:ndarray|NDArray|Tensor|Vectors|Pixels)\b")
SHAPE = re.compile(r"\((?:\w[\w .+*-]*,[^)]*)\)|\bany shape\b")
RETURNS = re.compile(r"^(?:Give|Gives|Tell|Tells|Say|Says) ")


def strained(text: str) -> list[str]:
    """Return the strained words of a text, what stands between backticks left out."""
    return [match.group() for match in STRAINED.finditer(" ".join(re.sub(r"`[^`]*`", "``", text).split()))]


@pytest.mark.parametrize("text", ["a row that has none", "where none is", "is no picture", "whoever asks", "so many"])
def test_strained_words_are_found(text: str) -> None:
    assert strained(text)


@pytest.mark.parametrize("text", ["there is no picture", "people who ask", "the `is no` code", "is no longer there"])
def test_plain_words_are_not(text: str) -> None:
    assert not strained(text)


def test_texts_of_the_code_are_plain() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}": words
        for path in (*SOURCES, *PROGRAMS)
        for line, text in _texts(_tree(path))
        if (words := strained(text))
    }
    assert not found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_are_plain(path: Path) -> None:
    assert not strained(path.read_text())


@pytest.mark.parametrize("path", SCREENS, ids=lambda path: path.name)
def test_screens_are_plain(path: Path) -> None:
    assert not strained(re.sub(r"^\s*(?://|\*|/\*).*$", "", path.read_text(), flags=re.MULTILINE))


def test_docstrings_begin_with_a_whole_sentence() -> None:
    """The map shows the first line; only the classes of errors have a longer message there."""
    cut = {
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}": first
        for path in SOURCES
        if path.name != "errors.py"
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module)
        for first in (ast.get_docstring(node) or ".").splitlines()[:1]
        if first[-1] not in ".:?"
    }
    assert not cut


def test_functions_return_and_neither_give_nor_tell() -> None:
    assert not [where for where, node in _public() if RETURNS.match(ast.get_docstring(node) or "")]


def test_functions_with_arrays_give_their_shapes() -> None:
    missing = [
        where
        for where, node in _public()
        if any(ARRAYS.search(each) for each in _annotations(node)) and not SHAPE.search(ast.get_docstring(node) or "")
    ]
    assert not missing


def test_functions_that_raise_say_what() -> None:
    """Calls of the API name their errors to `operation`, and the docstrings of commands are help texts."""
    own = _errors()
    missing = {
        where: unsaid
        for where, node in _public()
        if not _described(node)
        if (unsaid := {name for name in _raised(node) if name in own} - set(re.findall(r"\w+", _doc(node))))
    }
    assert not missing


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(str(each.value) if isinstance(each, ast.Constant) else "X" for each in node.values),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.lineno, node.value


def _public() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    def below(node: ast.AST, path: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
                yield from below(child, path)
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
                yield f"{path.relative_to(ROOT)}:{child.lineno} {child.name}", child

    for path in SOURCES:
        yield from below(_tree(path), path)


def _doc(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return ast.get_docstring(node) or ""


def _annotations(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
        if each.annotation is not None:
            yield ast.unparse(each.annotation)
    if node.returns is not None:
        yield ast.unparse(node.returns)


def _described(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    marks = [ast.unparse(each) for each in node.decorator_list]
    return any(mark.startswith("operation(") for mark in marks) or any(
        "typer.Context" in each for each in _annotations(node)
    )


def _raised(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(child, ast.Raise) and child.exc is not None:
            raised = child.exc.func if isinstance(child.exc, ast.Call) else child.exc
            yield ast.unparse(raised).rpartition(".")[2]
        yield from _raised(child)


def _errors() -> set[str]:
    """Return the names of all classes of the packages that are exceptions."""
    bases = {
        node.name: {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        for path in SOURCES
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ClassDef)
    }
    found = {"Exception", "ValueError", "RuntimeError", "BaseException"}
    while more := {name for name, above in bases.items() if name not in found and above & found}:
        found |= more
    return found & set(bases)
