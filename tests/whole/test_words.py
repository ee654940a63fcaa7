"""Words (style, 21): counts for a file, with the sentences that they count; names mean one thing.

The bounds are on counts, so that no single word is worth writing around. A failure lists what was
counted: mend the worst of it.
"""

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from ledger.features.facts.fact_types import FACT_TYPES
from tests.support.documents import ROOT, pages

CLIENT = ROOT / "src/ledger_client/execution_ledger"
REPEATED = {CLIENT / "types.py", CLIENT / "_operations.py"}
"""Modules that repeat the descriptions of the OpenAPI document as docstrings."""
SOURCES = [
    path
    for folder in ("src", "projections", "scripts", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path not in REPEATED and "node_modules" not in path.parts
]

SHARED = {"DayRow", "Difference", "EndpointRow", "LineFold", "LineRow", "Move"}
"""Names that two classes have. There may only be fewer."""

LONG_WORDS = 25
RELATIVE = re.compile(r"\bof (which|whom|whose|those)\b")
RIDDLE = re.compile(r"^(Whether|So long)\b|None: (it|there) is none")
OWN_NOUN = re.compile(
    r"\b(corners?|doors?|flips?|heed(s|ed)?|lanes?|manner|party|patience|roster|stretch(es)?|vigil"
    r"|walls?)\b(?!\.py|[ -]clock)"
    r"|\b(the|an?) (asked|beside|heard|said|told|(known|shown)(?= (of|is|are|in|at)\b|[.,;:]|$))\b"
    r"|\b(no|of|the|their) turns\b|`(_?(asked|beside|known|shown|told))`",
    re.I,
)
"""An own word as the noun of a riddle. Most of the others are common as verbs."""
OWN_NAME = re.compile(
    r"ask(ed|ing)|beside|corners?|doors?|flips?|heard|heed(ed)?|known|lanes?|looks?|manner|means|news"
    r"|party|patience|places?|roster|said|shown|sight|standing|stretch(es)?|told|turns|vigil|walks?|walls?",
    re.I,
)
"""Own words that the field's words replaced: no name has one. The glossary has those that stay."""
MOST_NAMES = {"ledger": 41, "ledger_client": 4, "projections": 12, "scripts": 1, "tests": 140}
"""How many definitions of a folder may have a name with an own word."""
STORED = {"asked_at", "heard_at", "seen_at", "told", "told_at", "is_told"}
"""Names with an own word that tables or statements have; the public ones are in the client."""
COUNTS: dict[str, tuple[re.Pattern[str] | None, float, int]] = {
    "long": (None, 0.06, 30),
    "relative": (RELATIVE, 0.02, 3),
    "riddle": (RIDDLE, 0.02, 3),
    "own": (OWN_NOUN, 0.02, 1),
}
"""What is counted, the share of a file's sentences above three, and how many of 1,000 of all."""
END = re.compile(r"(?<=[.!?:;])\s+(?=[A-Z`])")


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def prose(path: Path) -> Iterator[str]:
    """The docstrings and comments of a module; comments on successive lines are one text."""
    for node in nodes(path):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)
    comment, last = "", 0
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1:
                yield comment
                comment = ""
            comment, last = f"{comment} {token.string.lstrip('# ')}", token.start[0]
    yield comment


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text, whose paragraphs are separated by empty lines."""
    for paragraph in re.split(r"\n\s*\n", text):
        yield from filter(None, END.split(" ".join(paragraph.split())))


def of_page(page: Path) -> list[str]:
    """The sentences of a page without code, headings and tables."""
    text = re.sub(r"^```.*?^```$|^[#|].*?$", "", page.read_text(), flags=re.M | re.S)
    blocks = re.split(r"^\s*(?:[*-]|\d+\.) ", text, flags=re.M)
    return [sentence for block in blocks for sentence in sentences(block)]


def of_module(path: Path) -> list[str]:
    return [sentence for text in prose(path) for sentence in sentences(text)]


def is_long(sentence: str) -> bool:
    return len(sentence.split()) > LONG_WORDS


def counted(texts: list[str], counts: re.Pattern[str] | None) -> list[str]:
    """The sentences that match; without a pattern, the long ones."""
    return [s for s in texts if (counts.search(s) if counts else is_long(s))]


@pytest.fixture(scope="module")
def texts() -> dict[Path, list[str]]:
    return {page: of_page(page) for page in pages()} | {path: of_module(path) for path in SOURCES}


@pytest.mark.parametrize("name", COUNTS)
def test_few_sentences_of_a_file(texts: dict[Path, list[str]], name: str) -> None:
    counts, share, _ = COUNTS[name]
    found = {path: counted(text, counts) for path, text in texts.items()}
    over = {path: some for path, some in found.items() if len(some) > 3 + share * len(texts[path])}
    assert not over, "\n".join(f"{path.name}: {s}" for path, some in over.items() for s in some)


@pytest.mark.parametrize("name", COUNTS)
def test_all_sentences_together(texts: dict[Path, list[str]], name: str) -> None:
    counts, _, most = COUNTS[name]
    everything = [sentence for some in texts.values() for sentence in some]
    found = counted(everything, counts)
    assert len(everything) > 10_000
    assert 1000 * len(found) <= most * len(everything), "\n".join(found)


def defined(path: Path) -> Iterator[str]:
    """The names of a module's classes, functions, arguments and assignments, at each place."""
    for node in nodes(path):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name
            case ast.arg():
                yield node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr
            case _:
                pass


@pytest.mark.parametrize("folder", MOST_NAMES)
def test_few_names_have_an_own_word(folder: str) -> None:
    """Names that the OpenAPI document has don't count: their change would be one of the API."""
    kept = STORED.union(*map(defined, REPEATED))
    found = Counter(
        name
        for path in SOURCES
        if folder in path.relative_to(ROOT).parts[: 2 if "src" in path.parts else 1]
        for name in defined(path)
        if name not in kept
        and any(map(OWN_NAME.fullmatch, re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)))
    )
    assert found.total() <= MOST_NAMES[folder], found.most_common()


def class_names(*folders: str) -> Counter[str]:
    """How often each public class name stands in these folders."""
    return Counter(
        node.name
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in nodes(path)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )


def test_a_public_class_name_means_one_thing() -> None:
    """A fact and the event that it becomes share a name by intent."""
    found = class_names("src/ledger", "projections")
    facts = {each.data.__name__ for each in FACT_TYPES.values()}
    assert {name for name, count in found.items() if count > 1} - facts == SHARED
    found = class_names("src/ledger_client")
    assert len(found) > 300
    assert {name for name, count in found.items() if count > 1} == set()
