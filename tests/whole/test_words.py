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
from pathlib import Path

import pytest

from ledger.features.facts.fact_types import FACT_TYPES
from tests.support.documents import ROOT, pages

FOLDERS = ("src", "projections", "scripts", "tests")
CLIENT = ROOT / "src/ledger_client/execution_ledger"
REPEATED = {CLIENT / "types.py", CLIENT / "_operations.py"}
"""Modules that repeat the descriptions of the OpenAPI document as docstrings."""
SOURCES = [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path not in REPEATED and "node_modules" not in path.parts
]

SHARED = {
    "DayRow",
    "Difference",
    "EndpointRow",
    "LineFold",
    "LineRow",
    "Move",
}
"""Names that two classes have. There may only be fewer."""

LONG_WORDS = 25
SHARE_LONG, SHARE_OTHER = 0.06, 0.02
"""The share of a file's sentences that may be counted, in addition to three."""
LONG_PAGES = {"CHANGELOG.md": 4, "figures.md": 6}
"""Pages with more long sentences: there may only be fewer."""
RELATIVE = re.compile(r"\bof (which|whom|whose|those)\b")
RIDDLE = re.compile(r"^(Whether|So long)\b|None: (it|there) is none")
END = re.compile(r"(?<=[.!?:;])\s+(?=[A-Z`])")


def prose(source: str) -> Iterator[str]:
    """The docstrings and comments of a module; comments on successive lines are one text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)
    comment, last = "", 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
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
    return [sentence for text in prose(path.read_text()) for sentence in sentences(text)]


def is_long(sentence: str) -> bool:
    return len(sentence.split()) > LONG_WORDS


def listed(found: dict[Path, list[str]]) -> str:
    """The counted sentences, for a person."""
    return "\n".join(f"{p.relative_to(ROOT)}: {s}" for p, some in found.items() for s in some)


def over(texts: dict[Path, list[str]], counts: "re.Pattern[str] | None", share: float) -> str:
    """The counted sentences of each file with too many of them."""
    found = dict[Path, list[str]]()
    for path, text in texts.items():
        counted = [s for s in text if (counts.search(s) if counts is not None else is_long(s))]
        most = LONG_PAGES.get(path.name, 0) if counts is None else 0
        if len(counted) > max(most, 3 + share * len(text)):
            found[path] = counted
    return listed(found)


@pytest.fixture(scope="module")
def documents() -> dict[Path, list[str]]:
    return {page: of_page(page) for page in pages()}


@pytest.fixture(scope="module")
def modules() -> dict[Path, list[str]]:
    return {path: of_module(path) for path in SOURCES}


@pytest.mark.parametrize(
    ("counts", "share"),
    [(None, SHARE_LONG), (RELATIVE, SHARE_OTHER), (RIDDLE, SHARE_OTHER)],
    ids=["long", "relative", "riddle"],
)
def test_few_sentences_of_a_file(
    documents: dict[Path, list[str]],
    modules: dict[Path, list[str]],
    counts: "re.Pattern[str] | None",
    share: float,
) -> None:
    assert over(documents | modules, counts, share) == ""


@pytest.mark.parametrize(
    ("counts", "most"), [(None, 30), (RELATIVE, 3), (RIDDLE, 3)], ids=["long", "relative", "riddle"]
)
def test_all_sentences_together(
    documents: dict[Path, list[str]],
    modules: dict[Path, list[str]],
    counts: "re.Pattern[str] | None",
    most: int,
) -> None:
    """At most ``most`` of 1,000 sentences of documents and docstrings."""
    texts = [s for some in (documents | modules).values() for s in some]
    counted = [s for s in texts if (counts.search(s) if counts is not None else is_long(s))]
    assert len(texts) > 10_000
    assert 1000 * len(counted) <= most * len(texts), "\n".join(counted)


def class_names(*folders: str) -> Counter[str]:
    """How often each public class name stands in these folders."""
    return Counter(
        node.name
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )


def test_a_public_class_name_means_one_thing() -> None:
    """A fact and the event that it becomes share a name by intent."""
    found = class_names("src/ledger", "projections")
    facts = {each.data.__name__ for each in FACT_TYPES.values()}
    assert {name for name, count in found.items() if count > 1} - facts == SHARED


def test_a_public_class_name_of_the_client_means_one_thing() -> None:
    found = class_names("src/ledger_client")
    assert len(found) > 300
    assert {name for name, count in found.items() if count > 1} == set()
