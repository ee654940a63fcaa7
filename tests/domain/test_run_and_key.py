"""A run's and a key's decisions and folds (contract 3)."""

from collections.abc import Callable
from typing import Any

import pytest

from ledger.domain.api_key import ApiKeyCreated, ApiKeyRevoked
from ledger.domain.errors import InvalidState
from ledger.domain.run import (
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunRequested,
    RunStarted,
    Trigger,
)
from tests.support.domain import Given, given_key, given_run, minute

USER, API = Trigger("user", "u"), Trigger("api")
REQUESTED = RunRequested(run_id_origin="supplied", triggered_by=USER, input=b"i")
STARTED = RunStarted()
BEGUN = RunStarted(run_id_origin="issued", triggered_by=API)
CLOSING = RunCancelled(by_closing=True)
ENDINGS = [RunCompleted(), RunFailed(), RunCancelled()]

pending = lambda: given_run(REQUESTED)  # noqa: E731
running = lambda: given_run(REQUESTED, (2, STARTED))  # noqa: E731
begun = lambda: given_run((2, BEGUN))  # noqa: E731
closed_running = lambda: given_run((2, BEGUN), (9, CLOSING))  # noqa: E731
closed_pending = lambda: given_run(REQUESTED, (9, CLOSING))  # noqa: E731


def complete(at: float, duration: int | None = None) -> Callable[[Any], Any]:
    return lambda run: run.complete(minute(at), b"o", 7, duration)


def fail(at: float, duration: int | None = None) -> Callable[[Any], Any]:
    return lambda run: run.fail(minute(at), b"e", b"o", 7, duration)


def cancel(at: float) -> Callable[[Any], Any]:
    return lambda run: run.cancel(minute(at), "r")


def completed(**more: Any) -> RunCompleted:
    return RunCompleted(output=b"o", tokens_used=7, **more)


def failed(**more: Any) -> RunFailed:
    return RunFailed(error=b"e", output=b"o", tokens_used=7, **more)


@pytest.mark.parametrize(
    ("given", "decide", "event"),
    [
        (pending, lambda r: r.start(API, b"j"), RunStarted(triggered_by=API, input=b"j")),
        (running, complete(3), completed(duration_ms=60_000)),
        (begun, complete(3, 5), completed(duration_ms=5)),
        (begun, complete(1), completed(duration_ms=0)),
        (begun, fail(4), failed(duration_ms=120_000)),
        (pending, fail(4), failed()),
        (pending, fail(4, 5), failed()),
        (begun, cancel(3), RunCancelled(reason="r", duration_ms=60_000)),
        (pending, cancel(3), RunCancelled(reason="r")),
        (closed_running, complete(9), completed(duration_ms=420_000, late=True)),
        (closed_running, fail(8, 1), failed(duration_ms=1, late=True)),
        (closed_pending, fail(9), failed(late=True)),
    ],
)
def test_a_runs_decision_is_accepted(
    given: Callable[[], Given], decide: Callable[[Any], Any], event: Any
) -> None:
    given().when(decide).then(event)


@pytest.mark.parametrize(
    ("given", "decide"),
    [
        (running, lambda r: r.start(None, None)),
        (begun, lambda r: r.start(None, None)),
        (closed_pending, lambda r: r.start(None, None)),
        (pending, complete(3)),
        (closed_pending, complete(3)),
        (closed_running, complete(9.01)),
        (closed_running, fail(9.01)),
        (closed_running, cancel(3)),
    ],
)
def test_a_runs_decision_is_refused(
    given: Callable[[], Given], decide: Callable[[Any], Any]
) -> None:
    given().when(decide).refused(InvalidState)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("decide", [complete(2), fail(2), cancel(2)])
def test_an_ended_run_ends_no_more(ending: Any, decide: Callable[[Any], Any]) -> None:
    given_run(BEGUN, (5, ending)).when(decide).refused(InvalidState)


@pytest.mark.parametrize("late", [RunCompleted(late=True), RunFailed(late=True)])
@pytest.mark.parametrize("decide", [complete(2), fail(2), cancel(2)])
def test_a_late_ending_comes_once(late: Any, decide: Callable[[Any], Any]) -> None:
    given_run(BEGUN, (9, CLOSING), (5, late)).when(decide).refused(InvalidState)


def test_the_fold_of_a_whole_life() -> None:
    run = given_run((1, REQUESTED), (2, STARTED), (5, completed(duration_ms=4))).aggregate
    assert (run.status, run.triggered_by) == ("completed", USER)
    assert (run.requested_at, run.started_at, run.completed_at) == (minute(1), minute(2), minute(5))
    assert (run.duration_ms, run.tokens_used, run.version) == (4, 7, 3)
    assert (run.service_line_id, run.organization_id) == ("LIN-26-000001", "ORG-26-000001")


def test_a_run_that_begins_by_starting_was_requested_then() -> None:
    run = begun().aggregate
    assert (run.status, run.triggered_by) == ("running", API)
    assert run.requested_at == run.started_at == minute(2)


def test_a_late_ending_replaces_the_cancellation() -> None:
    run = given_run(BEGUN, (9, CLOSING), (5, RunFailed(tokens_used=2, late=True))).aggregate
    assert (run.status, run.completed_at, run.tokens_used) == ("failed", minute(5), 2)
    assert run.cancelled_by_closing is False


CREATED = ApiKeyCreated(secret_hash=b"h", permissions=("read",))


def test_a_key_is_revoked_once() -> None:
    given_key(CREATED).when(lambda key: key.revoke()).then(ApiKeyRevoked())
    revoked = given_key(CREATED, ApiKeyRevoked())
    revoked.when(lambda key: key.revoke()).refused(InvalidState)
    assert revoked.aggregate.organization_id == "ORG-26-000001"
    assert revoked.aggregate.workspace_id == "WS-26-000001"
