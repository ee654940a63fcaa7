"""The lines of the log, as text and as JSON."""

import asyncio
import gc
import json
import logging
import re
import time
from datetime import UTC, datetime

import psycopg
import pytest

from ledger.engine.telemetry.lines import (
    REQUEST_ID,
    LineFormatter,
    LogFormat,
    for_nobody,
    working_for,
)

DETAILED = """duplicate key
DETAIL:  Key (name, note)=(Jane Doe, first line
of Jane's note) already exists.
CONTEXT:  COPY run, line 1, column name: Jane Doe"""


def line_of(log_format: LogFormat, message: str, *values: object, is_bug: bool = False) -> str:
    exc_info = None
    if is_bug:
        try:
            raise psycopg.IntegrityError(DETAILED)
        except psycopg.IntegrityError as error:
            exc_info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("ledger.x", logging.WARNING, "", 0, message, values, exc_info)
    record.processName = "ledger-api-1"
    return LineFormatter(log_format).format(record)


def test_a_json_line_has_time_level_process_logger_message_and_request() -> None:
    before = datetime.now(UTC)
    with working_for({"req-1"}):
        line = json.loads(line_of("json", "%s: %d", "a\nb", 7))
    logged_at = datetime.fromisoformat(line.pop("time"))
    assert logged_at.tzinfo == UTC
    assert -1 < (logged_at - before).total_seconds() < 60
    assert line == {
        "level": "WARNING",
        "process": "api-1",
        "logger": "ledger.x",
        "message": "a\nb: 7",
        "request_id": "req-1",
    }


def test_the_time_of_a_json_line_is_utc_with_z() -> None:
    logged_at = json.loads(line_of("json", "x"))["time"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", logged_at)


def test_a_text_line_names_its_request_in_brackets() -> None:
    with working_for({"req-1"}):
        line = line_of("text", "hello")
    assert line.endswith(" WARNING ledger-api-1 hello [req-1]")
    assert line.startswith(time.strftime("%Y-%m-%d "))
    assert line_of("text", "hello").endswith(" hello")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_line_has_no_values_of_stored_rows(log_format: LogFormat) -> None:
    """PostgreSQL names the row's values in the details of an error."""
    line = line_of(log_format, "database error: %s", psycopg.IntegrityError(DETAILED))
    assert "database error: duplicate key" in line
    assert "Jane" not in line
    bug = line_of(log_format, "a bug", is_bug=True)
    assert "IntegrityError: duplicate key" in bug
    assert "Jane" not in bug


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_traceback_tells_each_error_by_its_first_line(log_format: LogFormat) -> None:
    """One error may have another as its cause, or be one of a group."""
    try:
        try:
            raise psycopg.IntegrityError(DETAILED)
        except psycopg.IntegrityError as cause:
            group = ExceptionGroup("several", [psycopg.DataError(DETAILED)])
            raise RuntimeError(DETAILED) from ExceptionGroup("two", [group, cause])
    except RuntimeError as error:
        exc_info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("ledger.x", logging.ERROR, "", 0, "a bug", (), exc_info)
    line = LineFormatter(log_format).format(record)
    for text in ("IntegrityError: duplicate key", "DataError: duplicate key", "RuntimeError: dup"):
        assert text in line
    assert "in test_a_traceback_tells_each_error_by_its_first_line" in line
    assert "direct cause" in line
    assert "Jane" not in line


def test_an_error_of_a_task_that_nobody_awaits_is_logged_without_values(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The line of asyncio shows the task, and with it the error's whole text."""

    async def fail() -> None:
        raise psycopg.IntegrityError(DETAILED)

    async def forget() -> None:
        task = asyncio.create_task(fail())
        await asyncio.wait([task])

    asyncio.run(forget())
    gc.collect()
    (record,) = (one for one in caplog.records if one.name == "asyncio")
    line = LineFormatter("text").format(record)
    assert "Task exception was never retrieved" in line
    assert "IntegrityError: duplicate key" in line
    assert "Jane" not in line


def test_a_json_line_of_a_bug_is_one_line_with_its_traceback() -> None:
    line = line_of("json", "a bug", is_bug=True)
    assert "\n" not in line
    assert json.loads(line)["exception"].startswith("Traceback (most recent call last)")


def test_a_line_about_several_requests_names_none() -> None:
    token = REQUEST_ID.set("outer")
    try:
        with working_for({"a", "b"}):
            assert REQUEST_ID.get() is None
        with working_for(set()):
            assert REQUEST_ID.get() is None
        assert REQUEST_ID.get() == "outer"
    finally:
        REQUEST_ID.reset(token)


def test_a_line_of_a_task_that_works_for_all_requests_names_none() -> None:
    with working_for({"the request that began it"}):
        assert for_nobody().run(REQUEST_ID.get) is None
        assert REQUEST_ID.get() == "the request that began it"
