"""Events in, rows of words out."""

import pytest

from ledger.engine.values.recorded import Recorded
from ledger.features.directory.model import DirectoryNamed, stream_of
from ledger.features.lines.model import execution_events as e
from projections.directory.search.view import WHOLE, WORD, SearchView, WordRow
from projections.directory.search.words import fold, folded_name, leading, sought
from tests.support.domain import activated, recorded
from tests.support.view_rows import given

LINE, ORG, WS = "LIN-26-000001", "ORG-26-000001", "WS-26-000001"
BEGUN = recorded(activated("capacity", name="Pay Core"), 1)
BLOCKED = recorded(e.Blocked(blocker_id="SCR-07", cause="approval_gap", reason="The pay"), 2)
UNBLOCKED = recorded(e.Unblocked(blocker_id="SCR-07"), 3)


def of_line(slot: int, position: int, word: str, folded: str = "pay core") -> WordRow:
    return WordRow(position, slot, False, LINE, "line", ORG, WS, word, folded, "")


def of_blocker(slot: int, position: int, word: str, folded: str, blocker: str) -> WordRow:
    return WordRow(position, slot, False, LINE, "blocker", ORG, WS, word, folded, blocker)


def empty(slot: int, position: int) -> WordRow:
    return WordRow(position, slot, False, LINE, "", ORG, WHOLE, "", "", "")


def of_entry(type: str, id: str, *words: str, folded: str, position: int = 1) -> list[WordRow]:
    """The rows of an entry, which its organization and its workspace share."""
    owner = f"{type}/{ORG}/{id}"
    return [
        WordRow(position, slot, False, owner, type, ORG, WS, word, folded, id)
        for slot, word in enumerate(words)
    ]


def test_a_name_gives_a_row_for_each_word() -> None:
    given(SearchView()).when(BEGUN).then(
        WORD,
        of_line(0, 1, "pay"),
        of_line(1, 1, "core"),
        *of_entry("workspace", WS, "1", folded=""),
    )


def test_an_activation_without_names_enters_what_the_line_bears() -> None:
    crew = (e.Resource(type="t", id="pod-a", name=""), e.Resource(type="t", id="x", name="Ann B"))
    begun = recorded(activated("capacity", project_tags=("!", "q4"), resources=crew), 1)
    given(SearchView()).when(begun).then(
        WORD,
        *of_entry("workspace", WS, "1", folded=""),
        *of_entry("project", "!", "", folded=""),
        *of_entry("project", "q4", "q4", folded="q4"),
        *of_entry("resource", "pod-a", "pod", folded="pod a"),
        *of_entry("resource", "x", "ann", folded="ann b"),
    )


def test_a_blocker_takes_rows_and_leaves_them_empty_for_the_next() -> None:
    begun = given(SearchView(), BEGUN)
    begun.when(BLOCKED).then(
        WORD,
        of_blocker(2, 2, "7", "the pay", "SCR-07"),
        of_blocker(3, 2, "the", "the pay", "SCR-07"),
        of_blocker(4, 2, "pay", "the pay", "SCR-07"),
    )
    begun.when(UNBLOCKED).then(WORD, empty(2, 3), empty(3, 3), empty(4, 3))
    named = recorded(e.Blocked(blocker_id="late", cause="approval_gap"), 4)
    begun.when(named).then(WORD, of_blocker(2, 4, "late", "late", "late"))
    begun.when(recorded(e.Closed(), 5)).then(WORD, empty(2, 5))


def test_an_event_that_changes_no_name_writes_nothing() -> None:
    again = recorded(e.Updated(project_tags=("a",), name="PAY core"), 3)
    begun = given(SearchView(), BEGUN, recorded(e.Updated(project_tags=("a",), name="pay core"), 2))
    begun.when(again, UNBLOCKED).then(WORD)


def test_a_name_reaches_the_rows_of_every_workspace() -> None:
    stream = stream_of(ORG, "PROJ-26-000001")
    named = recorded(DirectoryNamed(name="Alpha"), 1, originator_id=stream, workspace_id=None)
    begun = recorded(activated("capacity", project_tags=("PROJ-26-000001",)), 2)
    renamed = recorded(DirectoryNamed(name="Beta"), 3, originator_id=stream, workspace_id=None)
    view = given(SearchView(), named)
    view.when(begun).then(
        WORD,
        *of_entry("workspace", WS, "1", folded="", position=2),
        *of_entry("project", "PROJ-26-000001", "1", "alpha", folded="alpha", position=2),
    )
    rows = of_entry("project", "PROJ-26-000001", "1", "beta", folded="beta", position=3)
    view.when(renamed).then(WORD, *rows)


def allocated(position: int, name: str | None, workspace: str) -> Recorded:
    resource = e.Resource(type="t", id="!", name=name)
    line = f"LIN-26-{position:06d}"
    body = e.ResourceAllocated(resource=resource)
    return recorded(body, position, originator_id=line, workspace_id=workspace)


def test_a_resource_has_rows_of_its_own_in_each_workspace_with_another_name() -> None:
    def row(slot: int, position: int, word: str, scope: str, narrow: bool) -> WordRow:
        owner = f"resource/{ORG}/!"
        return WordRow(position, slot, narrow, owner, "resource", ORG, scope, word, word, "!")

    view = given(SearchView())
    view.when(allocated(1, "Ann", WS)).then(WORD, row(0, 1, "ann", WS, False))
    view.when(allocated(2, None, "WS-2")).then(WORD, row(1, 2, "", "WS-2", True))
    view.when(allocated(3, "Bea", "WS-2")).then(
        WORD, row(0, 3, "ann", WS, True), row(1, 3, "bea", "WS-2", False)
    )
    view.when(allocated(4, "Bea", WS)).then(WORD, row(0, 4, "bea", WS, True))
    view.when(allocated(5, None, WS), allocated(6, "BEA", "WS-2")).then(WORD)
    # The organization goes on to share the rows of the same workspace.
    view.when(allocated(7, "Bea", "WS-1")).then(WORD, row(2, 7, "bea", "WS-1", True))


# Words.


def test_a_text_is_folded_whatever_its_marks_its_case_and_the_forms_of_its_characters() -> None:
    assert fold("Ü Ǆ ﬁ Straße ΣΑΣ İ ½") == "u dz fi strasse σασ i 1\u20442"
    assert folded_name("  Pay_ments/Core—EU (2) ") == "pay ments core eu 2"
    assert leading("pay a 2 22 pay ments") == ["pay", "ments"]


def test_a_folded_name_stays_short_however_its_characters_grow() -> None:
    assert len("ﷺ" * 200) == 200
    assert len(folded_name("ﷺ" * 200)) <= 200


@pytest.mark.parametrize(
    ("text", "words", "number"),
    [
        ("Pay cores", ("cores", "pay"), None),
        ("pay too two", ("pay", "too", "two"), None),
        ("090405", (), "90405"),
        ("LIN-26-0 pay", ("pay",), "0"),
        ("q4-2026", ("q4", "2026"), None),
        ("2026-11", (), "2026"),
        ("SCR-128612,", (), "128612"),
        ("x 7", (), "7"),
    ],
)
def test_a_searched_text_is_words_and_numbers(
    text: str, words: tuple[str, ...], number: str | None
) -> None:
    wanted = sought(text)
    assert wanted is not None
    assert (wanted.words, wanted.number) == (words, number)


@pytest.mark.parametrize("text", ["", " ", "a", "a b", "-", "_a_"])
def test_a_text_without_a_usable_word_searches_nothing(text: str) -> None:
    assert sought(text) is None
