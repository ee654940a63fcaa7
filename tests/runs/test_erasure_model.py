"""The erasure of a run: only of an ended run, once, with no other change (contract, Proof)."""

from typing import Any

import pytest

from ledger.engine.values.errors import InvalidState
from ledger.features.runs.model.run import (
    Run,
    RunCancelled,
    RunCompleted,
    RunErased,
    RunFailed,
    RunRequested,
    RunStarted,
)
from ledger.features.runs.model.token_usage import Used
from tests.support.domain import NOTHING, Past, after, at_minute, given, minute

REQUESTED = RunRequested(run_id_origin="supplied", input=b"i")
STARTED = RunStarted(run_id_origin="supplied", input=b"i")
STARTED_LATER = at_minute(1, RunStarted())
COMPLETED = RunCompleted(output=b"o", tokens_used=7, duration_ms=4)
CANCELLED_BY_CLOSING = RunCancelled(by_closing=True)
ERASED = RunErased(reason="r")


@pytest.mark.parametrize(
    "ending", [COMPLETED, RunFailed(error=b"e"), RunCancelled(), CANCELLED_BY_CLOSING]
)
def test_an_ended_run_is_erased(ending: Any) -> None:
    given(STARTED, at_minute(2, ending)).when(Run.erase, "r").then(ERASED)


@pytest.mark.parametrize("past", [[REQUESTED], [STARTED], [REQUESTED, STARTED_LATER]])
def test_an_open_run_is_not_erased(past: list[Past]) -> None:
    given(*past).when(Run.erase, "r").then(InvalidState)


def test_a_run_is_erased_once() -> None:
    given(STARTED, COMPLETED, at_minute(5, ERASED)).when(Run.erase, "another").then(NOTHING)


def test_an_erasure_sets_the_time_of_the_erasure_and_changes_nothing_else() -> None:
    before = after(STARTED, at_minute(2, COMPLETED))
    erased = after(STARTED, at_minute(2, COMPLETED), at_minute(5, ERASED))
    assert (before.erased_at, erased.erased_at) == (None, minute(5))
    erased.erased_at, erased.version = None, before.version
    assert erased == before


def test_an_erased_run_that_a_closing_had_cancelled_accepts_one_late_ending() -> None:
    cancelled: list[Past] = [STARTED, at_minute(9, CANCELLED_BY_CLOSING), at_minute(10, ERASED)]
    late = RunCompleted(duration_ms=360_000, late=True)
    given(*cancelled).when(Run.complete, minute(6), None, Used(), None).then(late)
    given(*cancelled).when(Run.complete, minute(11), None, Used(), None).then(InvalidState)
    ended = [*cancelled, at_minute(6, late)]
    given(*ended).when(Run.fail, minute(6), None, None, None, None).then(InvalidState)
    assert after(*ended).erased_at == minute(10)


def test_an_erased_run_that_had_ended_does_not_end_again() -> None:
    given(STARTED, COMPLETED, ERASED).when(Run.cancel, minute(1), "r").then(InvalidState)
