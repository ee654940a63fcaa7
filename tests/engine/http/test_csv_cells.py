"""No spreadsheet takes a cell for a formula, however it divides the lines of a CSV."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.engine.http.exports import harmless, harmless_json
from ledger.engine.values.rendering import json_text

SIGNS = "=+-@＝＋－＠"
WORDS = st.text(f"{SIGNS}ab ,;\"'\t\r\n\v\f\\\u00a0\u200b\ufeff", max_size=12)
JSON = st.recursive(
    WORDS | st.integers(-9, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
)


def cells_of(text: str, divider: str) -> list[str]:
    """The cells as a reader sees them that divides lines at the divider."""
    return [
        cell for row in csv.reader(io.StringIO(text, newline=""), delimiter=divider) for cell in row
    ]


@pytest.mark.parametrize("divider", [",", ";", "\t"])
@given(words=st.lists(WORDS, min_size=1, max_size=3), payload=JSON)
def test_no_cell_begins_with_a_sign_for_readers_that_divide_at(
    divider: str, words: list[str], payload: object
) -> None:
    text = io.StringIO(newline="")
    row = ["EVT-26-000001", *map(harmless, words), harmless_json(json_text({"k": payload}))]
    csv.writer(text, lineterminator="\r\n").writerow(row)
    for cell in cells_of(text.getvalue(), divider):
        assert cell.strip('" \t\r\n\v\f\u00a0\u200b\ufeff')[:1] not in tuple(SIGNS), ascii(cell)
        assert divider != "," or cell[:1] not in tuple("\t\r\n\v")


@given(JSON)
def test_harmless_json_means_the_same(value: object) -> None:
    assert json.loads(harmless_json(json_text(value))) == value


@pytest.mark.parametrize(
    ("word", "cell"),
    [
        ("plain; text, ok", "plain; text, ok"),
        ("USR-26-000044", "USR-26-000044"),
        ("a=b", "a=b"),
        ("a - b", "a - b"),
        ("=1+2", "'=1+2"),
        ("＝1+2", "'＝1+2"),
        ("\x0b=1", "'\x0b'=1"),
        ("\n=1", "'\n'=1"),
        ("\ttext", "'\ttext"),
        ("a;=1", "a;'=1"),
        ("a; =1", "a; '=1"),
        ("list:\n- item\n- item", "list:\n'- item\n'- item"),
        (None, None),
    ],
)
def test_an_apostrophe_stands_before_a_sign_and_nowhere_else(
    word: str | None, cell: str | None
) -> None:
    assert harmless(word) == cell


@pytest.mark.parametrize("run", [";", "\n", " ", "; ", '"', ";-", "=;"])
def test_a_long_word_of_dividers_takes_no_longer_than_its_length(run: str) -> None:
    # A time that grew with the square of the length would take some minutes.
    word = run * 200_000
    assert (harmless(word) or "").replace("'", "") == word
    assert json.loads(harmless_json(json_text(word))) == word
