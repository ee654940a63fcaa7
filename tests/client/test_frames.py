"""Rows of the ledger as tables of pandas."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from execution_ledger import Ledger
from execution_ledger.types import EVENTS, UsageDay

from tests.client.support import Service

pytest.importorskip("pandas")
from execution_ledger.pandas import LedgerFrame, columns_of

MONTH = f"{datetime.now(UTC):%Y-%m}"


@pytest.fixture(scope="module")
def story(service: Service) -> Iterator[tuple[Ledger, str]]:
    """A ledger with three runs and two check-ins of a line."""
    line = service.edge.fresh()
    with Ledger(service.address, service.token, source="/frames") as ledger:
        with ledger.run(line) as run:
            run.tokens(model="small", input=1_200, output=640)
        with pytest.raises(KeyError), ledger.run(line):
            raise KeyError
        ledger.run(line, name="open").begin()
        ledger.report("execution.checked_in", line, {"hours": 1.5})
        ledger.report("execution.checked_in", line)
        assert ledger.flush()
        yield ledger, line


def test_a_list_has_a_column_for_each_field_with_its_dtype(story: tuple[Ledger, str]) -> None:
    ledger, line = story
    frame = LedgerFrame(ledger.lines.runs(line))
    dtypes = frame.dtypes.astype(str)
    assert dtypes[["started_at", "completed_at"]].to_list() == ["datetime64[us, UTC]"] * 2
    assert dtypes[["tokens_used", "attempt", "duration_ms"]].to_list() == ["Int64"] * 3
    assert dtypes[["status", "error_code", "external_id"]].to_list() == ["string"] * 3
    assert frame.groupby("status").size().to_dict() == {"completed": 1, "failed": 1, "running": 1}
    assert frame["tokens_used"].sum() == 1_840
    assert frame["completed_at"].isna().sum() == 1
    durations = frame["completed_at"] - frame["started_at"]
    assert (durations.dropna().dt.total_seconds() >= 0).all()
    assert frame["error_code"].dropna().to_list() == ["KeyError"]


def test_an_export_is_the_same_table_as_its_list(story: tuple[Ledger, str]) -> None:
    ledger, line = story
    for listed, exported in (
        (ledger.runs.list(service_line_id=line), ledger.runs.export(service_line_id=line)),
        (ledger.lines.list(), ledger.lines.export(format="csv")),
        (ledger.events.list(), ledger.events.export()),
        (ledger.usage.list(), ledger.usage.export()),
    ):
        frame, file = LedgerFrame(listed), LedgerFrame(exported)
        assert len(frame) > 0
        assert list(frame.columns) == list(file.columns)
        assert frame.dtypes.equals(file.dtypes)
        first = frame.columns[0]
        assert sorted(frame[first].astype(str)) == sorted(file[first].astype(str))


def test_a_month_has_the_columns_of_its_export(story: tuple[Ledger, str]) -> None:
    ledger, line = story
    frame = LedgerFrame(ledger.usage.month(MONTH)).set_index("service_line_id")
    row = frame.loc[line]
    assert (row["hours"], row["check_ins"], row["tokens_used"]) == (1.5, 2, 1_840)
    assert (row["runs_completed"], row["runs_failed"], row["runs_running"]) == (1, 1, 1)
    head = next(iter(ledger.usage.export(format="csv"))).strip().split(",")
    frame = frame.reset_index()
    assert set(head) <= set(frame.columns)
    assert str(frame.dtypes["seconds_running"]) == "Float64"


def test_a_list_without_rows_has_columns_and_dtypes(story: tuple[Ledger, str]) -> None:
    ledger, _ = story
    frame = LedgerFrame(ledger.usage.month("2020-01"))
    assert (len(frame), frame["hours"].sum()) == (0, 0)
    none = LedgerFrame(ledger.events.list(type=["execution.blocked"]))
    assert str(none.dtypes["recorded_at"]) == "datetime64[us, UTC]"
    assert LedgerFrame(ledger.statements.list()).empty
    assert LedgerFrame([]).empty


def test_events_of_several_types_share_a_table(story: tuple[Ledger, str]) -> None:
    ledger, line = story
    frame = LedgerFrame(ledger.events.list(service_line_id=line))
    hours = frame[frame["type"] == "execution.checked_in"]["payload_hours"]
    assert hours.isna().to_list() == [False, True]
    assert frame["payload_tokens_used"].sum() == 1_840
    named = {(column.name, column) for kind in EVENTS.values() for column in columns_of(kind)}
    assert len(named) == len({name for name, _ in named})


def test_every_kind_of_column_has_a_dtype() -> None:
    dtypes = {column.name: (column.dtype, column.parts) for column in columns_of(UsageDay)}
    assert dtypes["date"] == ("datetime64[us]", None)
    assert dtypes["runs"] == ("object", "Int64")
    assert dtypes["tokens_by_model"] == ("object", None)
