"""Cells of a sheet: each becomes the value that its map says, or refuses its row."""

from typing import Any

import pytest

from ledger.app.cli.files.map_file import Dialect
from ledger.app.cli.line_parser import fact_of
from ledger.features.facts.envelope import Rejected
from tests.app.cli.test_sheets import one_column
from tests.support.facts import LINE, encode, fact

GERMAN = Dialect(decimal=",", date="%d.%m.%Y", time_zone="Europe/Berlin")
SERIALS = Dialect(date="excel", time_zone="Europe/Berlin")
CLOCKS = Dialect(date="%d.%m.%Y %H:%M", time_zone="Europe/Berlin")
GLUED = Dialect(date="%Y%m%d", time_zone="Europe/Berlin")
WEEKDAYS = Dialect(date="%a %d.%m.%Y", time_zone="Europe/Berlin")
CAIRO = Dialect(date="%d.%m.%Y", time_zone="Africa/Cairo")
"""A zone whose clocks skip the first hour of a day."""
OFFSETS = Dialect(date="%d.%m.%Y %H:%M %z")


@pytest.mark.parametrize(
    ("field", "read", "cell", "value"),
    [
        ("hours", GERMAN, "6,50", 6.5),
        ("hours", GERMAN, "007", 7),
        ("hours", Dialect(), "\N{NO-BREAK SPACE}6.5 ", 6.5),
        ("time", GERMAN, "26.11.2026", "2026-11-25T23:00:00Z"),
        ("time", SERIALS, "45987.729166666664", "2025-11-26T16:30:00Z"),
        ("time", CLOCKS, "25.10.2026 02:30", "2026-10-25T00:30:00Z"),
        ("time", SERIALS, "45987", "2025-11-25T23:00:00Z"),
        ("time", OFFSETS, "26.11.2026 17:00 +0530", "2026-11-26T11:30:00Z"),
        ("time", Dialect(), "2026-11-26T17:00:00+01:00", "2026-11-26T16:00:00Z"),
        ("time", SERIALS, "45987.72917", "2025-11-26T16:30:00Z"),
        ("time", GLUED, "20261126", "2026-11-25T23:00:00Z"),
        ("time", WEEKDAYS, "Thu 26.11.2026", "2026-11-25T23:00:00Z"),
        ("time", CAIRO, "24.04.2026", "2026-04-23T22:00:00Z"),
        ("note", Dialect(), "#3 is done", "#3 is done"),
        ("note", Dialect(), "#URGENT", "#URGENT"),
    ],
)
def test_a_cell_is_read_as_its_map_says(field: str, read: Dialect, cell: str, value: Any) -> None:
    data, more = ({}, {"time": value}) if field == "time" else ({field: value}, {})
    expected = fact("execution.checked_in", LINE, data, id="n", source="/s", **more)
    if not data:
        del expected["data"]
    assert one_column(field, read, cell, "execution.checked_in") == fact_of(encode(expected))


@pytest.mark.parametrize(
    ("field", "read", "cell"),
    [
        ("hours", Dialect(), "6,5"),
        ("hours", GERMAN, "6.5"),
        ("hours", Dialect(), "1,234.5"),
        ("hours", Dialect(), "1 234"),
        ("hours", Dialect(), "1E+05"),
        ("hours", Dialect(), "٣"),
        ("hours", Dialect(), "6.5 h"),
        ("hours", Dialect(), "9" * 16),
        ("time", GERMAN, "11/26/2026"),
        ("time", GERMAN, "46352"),
        ("time", OFFSETS, "26.11.2026 17:00"),
        ("time", SERIALS, "26.11.2026"),
        ("time", SERIALS, "0.729"),
        ("time", SERIALS, "46110.104166667"),
        ("time", Dialect(date="%d.%m.%Y %H:%M %z"), "01.01.0001 00:00 +0100"),
        ("time", SERIALS, "46110.083333"),
        ("time", GLUED, "202611"),
        ("time", GLUED, "2026111"),
        ("time", WEEKDAYS, "Mon 26.11.2026"),
        ("note", Dialect(), "Err:502"),
        ("note", Dialect(), "#¡VALOR!"),
        ("note", Dialect(), "#N/D"),
        ("note", Dialect(), "#N/A"),
        ("note", Dialect(), "#DIV/0!"),
        ("note", Dialect(), "########"),
        ("note", Dialect(), "=SUM(A1:A3)"),
        ("note", Dialect(), "a\0b"),
        ("note", Dialect(), "a\ufffdb"),
    ],
)
def test_a_cell_that_is_not_clear_refuses_its_row(field: str, read: Dialect, cell: str) -> None:
    found = one_column(field, read, cell, "execution.checked_in")
    assert isinstance(found, Rejected)
    ((pointer, _),) = found.error.errors  # type: ignore[attr-defined]
    assert (found.id, pointer.rpartition("/")[2]) == ("n", field)
