"""A sentence has a noun as its subject, no pronoun (style, 21); a class name means one thing."""

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

FOLDERS = ("src", "projections", "scripts", "tests", "docs")
CLIENT = ROOT / "src/ledger_client/execution_ledger"
REPEATED = {CLIENT / "types.py", CLIENT / "_operations.py"}
"""Modules that repeat the descriptions of the OpenAPI document as docstrings."""
SOURCES = [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path not in REPEATED
]

SHARED = {
    "DayRow",
    "Difference",
    "EndpointRow",
    "LineFold",
    "LineRow",
    "Move",
    "Turns",
}
"""Names of two classes: exceptions, of which there may only be fewer."""

PRONOUN = re.compile(r"\b(What|Whatever|Who|Whoever|That|It|They|Those|Which)\s(?!of\b|the\b)")
PRONOUN_OF_A_TEST = re.compile(r"test_(what|whatever|who|whoever|that|it|they|those|which)_")
END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


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
        yield from END.split(" ".join(paragraph.split()))


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_sentence_begins_with_a_pronoun_in_a_nouns_place(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {sentence}"
        for path in SOURCES
        if path.is_relative_to(ROOT / folder)
        and PRONOUN.search(path.read_text())  # to find the prose of all files takes seconds
        for text in prose(path.read_text())
        for sentence in sentences(text)
        if PRONOUN.match(sentence)
    ]
    assert found == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_no_sentence_of_a_page_begins_with_a_pronoun_in_a_nouns_place(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$|^#.*?$", "", page.read_text(), flags=re.M | re.S)
    found = [
        sentence
        for block in re.split(r"^[*|\d. -]+", prose, flags=re.M)
        for sentence in sentences(block)
        if PRONOUN.match(sentence) and "?" not in sentence
    ]
    assert found == []


def test_a_tests_name_has_a_noun_as_its_subject() -> None:
    sources = [path for path in SOURCES if path.is_relative_to(ROOT / "tests")]
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources
        for name in re.findall(r"^def (test_\w+)", path.read_text(), flags=re.M)
        if PRONOUN_OF_A_TEST.match(name)
    ]
    assert len(sources) >= 200
    assert found == []


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
