"""Each kind of watch is one file and a row of the table, and gives all that a kind must give."""

import re
from pathlib import Path

import pytest

import ledger
import projections
from ledger.engine.values.values import EARLIEST
from ledger.features.watches import kinds
from ledger.features.watches.kinds import KINDS
from ledger.features.watches.kinds.base import Condition
from tests.watches.test_model import CONDITIONS

FOLDER = Path(kinds.__file__).parent
SOURCES = [Path(package.__file__ or "").parent for package in (ledger, projections)]
CONTRACT = Path(__file__).parents[2] / "docs/contract/watches.md"
SHARED = {"__init__", "base", "wording"}
"""The files of the folder that are no kinds."""
FILES = {"source_silent": 3, "usage_over": 3}
"""How many files may name a kind besides the table: these have loops and limits of their own."""
NEEDED = {"choice", "sentence", "at_once", "text"}
NEEDED_OF_LINES = NEEDED | {"may_hold", "earliest", "episodes"}
BASIC = {"now", "least", "line_id", "line_key", "subject", "since", "after", "before", "from", "to"}
"""The parameters of SQL that no kind gives."""


def test_each_file_is_a_kind_of_its_name_in_the_table() -> None:
    modules = {kind.__module__.rpartition(".")[2]: kind for kind in KINDS}
    assert {path.stem for path in FOLDER.glob("*.py")} - SHARED == modules.keys()
    assert {name: kind.kind() for name, kind in modules.items()} == {name: name for name in modules}
    assert {*Condition.__subclasses__()} == {*KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_gives_every_member(kind: type[Condition]) -> None:
    needed = NEEDED if kind.about == "source" else NEEDED_OF_LINES
    assert needed - vars(kind).keys() == set(), "see Condition for what each kind gives"
    assert kind.__doc__ != Condition.__doc__
    has_ends = kind.about in ("source", "sums") or {"recorded", "transitions"} & vars(kind).keys()
    assert has_ends, "each change of the line would end an alert"
    blanks = kind.blanks().keys() | {"lines", "time"} - (
        {"lines"} if kind.about == "source" else set()
    )
    assert {*re.findall(r"\{(\w+)\}", kind.sentence)} == blanks
    assert {*re.findall(r"\{(\w+)\}", kind.at_once)} == blanks - {"time"}
    assert kind.__struct_fields__ == (*kind.blanks(),), "each field has a blank"
    assert any(isinstance(each, kind) for each in CONDITIONS), "see tests/watches/test_model.py"
    assert f"| `{kind.kind()}`" in CONTRACT.read_text()


def test_the_parameters_of_a_kind_are_those_of_its_sql_and_of_no_other_kind() -> None:
    owners = dict[str, type[Condition]]()
    for kind in KINDS:
        conditions = [(each, 60) for each in CONDITIONS if isinstance(each, kind)]
        names = kind.parameters(conditions, EARLIEST).keys()
        sql = " ".join([kind.may_hold, kind.earliest, kind.recorded, *(kind.past or ())])
        assert {*re.findall(r"%\((\w+)\)s", sql)} - BASIC == names
        assert names & owners.keys() == set(), owners
        owners |= dict.fromkeys(names, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_named_in_its_file_alone(kind: type[Condition]) -> None:
    # Of `health` the class alone: many know the word.
    names = {kind.__name__, kind.kind()} - {"health"}
    named = re.compile(rf"\b({'|'.join(names)})\b")
    files = [
        path
        for source in SOURCES
        for path in source.rglob("*")
        if path.suffix in (".py", ".html", ".sql") and named.search(path.read_text())
    ]
    assert FOLDER / "__init__.py" in files
    assert len(files) - 1 <= FILES.get(kind.kind(), 1), files
