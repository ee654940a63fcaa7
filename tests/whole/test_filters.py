"""A filter of a list is a row: few files of the product name it (docs/extending.md)."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import ledger
import projections
from ledger.engine.reads.filters import Filter
from projections.lines.filters import LINES
from projections.runs.statements import BY_NAME, OF_LINE, OF_LINES
from projections.usage.scope import SCOPE
from projections.watches.statements import ALERTS
from tests.support.documents import CONTRACT

FILES = 3
"""The files that may name a flag, besides templates and clients."""


def names_in(path: Path) -> Iterator[str]:
    """The texts, attributes, arguments and fields of a module, without its docstrings."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Expr(ast.Constant()):
                node.value.value = None
            case ast.Constant(str(text)) | ast.Attribute(attr=text) | ast.keyword(arg=str(text)):
                yield text
            case ast.AnnAssign(ast.Name(text)) | ast.arg(text):
                yield text


@pytest.mark.parametrize("name", [each.name for each in LINES if each.takes == "flag"])
def test_few_files_name_a_flag_of_the_list_of_lines(name: str) -> None:
    packages = (Path(str(package.__file__)).parent for package in (ledger, projections))
    files = (path for package in packages for path in package.rglob("*.py"))
    has_name = re.compile(rf"\b{name}\b").search
    mentioned = [path for path in files if has_name(path.read_text())]
    named = [path for path in mentioned if any(map(has_name, names_in(path)))]
    assert 0 < len(named) <= FILES, named


@pytest.mark.parametrize(
    ("filters", "page"),
    [
        (LINES, "reading"),
        ((*OF_LINE, *OF_LINES, *BY_NAME), "reading"),
        (SCOPE, "usage"),
        (ALERTS, "watches"),
    ],
    ids=["lines", "runs", "usage", "alerts"],
)
def test_each_filter_is_on_its_page_of_the_contract(filters: list[Filter], page: str) -> None:
    text = (CONTRACT / f"{page}.md").read_text()
    assert [each.name for each in filters if f"`{each.name}`" not in text] == []
