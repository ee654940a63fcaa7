"""The erasure of a run: which runs, once, and what is left of it (contract 6)."""

from typing import Any

import pytest

from ledger.domain.errors import InvalidState
from ledger.domain.run import (
    RunCancelled,
    RunCompleted,
    RunErased,
    RunFailed,
    RunRequested,
    RunStarted,
)
from tests.support.domain import given_run, minute

REQUESTED = RunRequested(run_id_origin="supplied", input=b"i")
BEGUN = RunStarted(run_id_origin="supplied", input=b"i")
COMPLETED = RunCompleted(output=b"o", tokens_used=7, duration_ms=4)
CLOSING = RunCancelled(by_closing=True)
ERASED = RunErased(reason="r")


def erase(run: Any) -> Any:
    return run.erase("r")


@pytest.mark.parametrize("ending", [COMPLETED, RunFailed(error=b"e"), RunCancelled(), CLOSING])
def test_an_ended_run_is_erased(ending: Any) -> None:
    given_run(BEGUN, (2, ending)).when(erase).then(ERASED)


@pytest.mark.parametrize("past", [(REQUESTED,), (BEGUN,), (REQUESTED, (1, RunStarted()))])
def test_an_open_run_is_not(past: Any) -> None:
    given_run(*past).when(erase).refused(InvalidState)


def test_it_is_erased_once() -> None:
    once = given_run(BEGUN, COMPLETED, (5, ERASED))
    once.when(lambda run: run.erase("another")).then(None)


def test_all_else_stays_as_it_was() -> None:
    before = given_run(BEGUN, (2, COMPLETED)).aggregate
    after = given_run(BEGUN, (2, COMPLETED), (5, ERASED)).aggregate
    assert (before.erased_at, after.erased_at) == (None, minute(5))
    after.erased_at, after.version = None, before.version
    assert after == before


def test_an_erased_run_is_judged_as_ever() -> None:
    """Its line's closing had cancelled it: one late ending is taken, then none."""
    cancelled = given_run(BEGUN, (9, CLOSING), (10, ERASED))
    late = RunCompleted(duration_ms=360_000, late=True)
    cancelled.when(lambda run: run.complete(minute(6), None, None, None)).then(late)
    cancelled.when(lambda run: run.complete(minute(11), None, None, None)).refused(InvalidState)
    ended = given_run(BEGUN, (9, CLOSING), (10, ERASED), (6, late))
    ended.when(lambda run: run.fail(minute(6), None, None, None, None)).refused(InvalidState)
    assert ended.aggregate.erased_at == minute(10)
    given_run(BEGUN, COMPLETED, ERASED).when(lambda run: run.cancel(minute(1), "r")).refused(
        InvalidState
    )
