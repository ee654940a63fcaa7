"""The decisions of runs and API keys, and the folds of their events (contract, State)."""

from typing import Any

import pytest

from ledger.engine.values.errors import InvalidState
from ledger.features.keys.model import ApiKey, ApiKeyCreated, ApiKeyRevoked
from ledger.features.runs.model.run import (
    Run,
    RunCancelled,
    RunCompleted,
    RunErased,
    RunFailed,
    RunName,
    RunRequested,
    RunStarted,
    RunUsageCorrected,
    Trigger,
)
from ledger.features.runs.model.token_usage import TokenUsage, Used
from tests.support.domain import Past, after, at_minute, given, minute

USER, API = Trigger("user", "u"), Trigger("api")
REQUESTED = RunRequested(run_id_origin="supplied", triggered_by=USER, input=b"i")
STARTED = RunStarted()
STARTED_AT_ONCE = RunStarted(run_id_origin="issued", triggered_by=API)
CANCELLED_BY_CLOSING = RunCancelled(by_closing=True)
BY_MODEL = (TokenUsage("m", input=4, output=3),)
USED = Used(7, BY_MODEL)

PENDING = [REQUESTED]
RUNNING = [REQUESTED, at_minute(2, STARTED)]
RUNNING_AT_ONCE = [at_minute(2, STARTED_AT_ONCE)]
CLOSED_WHILE_RUNNING = [*RUNNING_AT_ONCE, at_minute(9, CANCELLED_BY_CLOSING)]
CLOSED_WHILE_PENDING = [REQUESTED, at_minute(9, CANCELLED_BY_CLOSING)]
ERASED = [*CLOSED_WHILE_RUNNING, at_minute(10, RunErased(reason="r"))]


UNNAMED = RunName(external_id=None, attempt=1, retry_of=None)


def start(run: Run, trigger: Trigger | None, sealed: bytes | None) -> RunStarted:
    return run.start(trigger, sealed, name=UNNAMED)


def complete(at: float, duration: int | None = None) -> tuple[Any, ...]:
    return Run.complete, minute(at), b"o", USED, duration


def fail(at: float, duration: int | None = None) -> tuple[Any, ...]:
    return Run.fail, minute(at), b"e", b"o", USED, duration


def cancel(at: float) -> tuple[Any, ...]:
    return Run.cancel, minute(at), "r"


def completed(**more: Any) -> RunCompleted:
    return RunCompleted(output=b"o", tokens_used=7, token_usage=BY_MODEL, **more)


def failed(**more: Any) -> RunFailed:
    return RunFailed(error=b"e", output=b"o", tokens_used=7, token_usage=BY_MODEL, **more)


@pytest.mark.parametrize(
    ("past", "command", "event"),
    [
        (PENDING, (start, API, b"j"), RunStarted(triggered_by=API, input=b"j")),
        (RUNNING, complete(3), completed(duration_ms=60_000)),
        (RUNNING_AT_ONCE, complete(3, 5), completed(duration_ms=5)),
        (RUNNING_AT_ONCE, complete(1), completed(duration_ms=0)),
        (RUNNING_AT_ONCE, fail(4), failed(duration_ms=120_000)),
        (PENDING, fail(4), failed()),
        (PENDING, fail(4, 5), failed()),
        (RUNNING_AT_ONCE, cancel(3), RunCancelled(reason="r", duration_ms=60_000)),
        (PENDING, cancel(3), RunCancelled(reason="r")),
        (CLOSED_WHILE_RUNNING, complete(9), completed(duration_ms=420_000, late=True)),
        (CLOSED_WHILE_RUNNING, fail(8, 1), failed(duration_ms=1, late=True)),
        (CLOSED_WHILE_PENDING, fail(9), failed(late=True)),
        (CLOSED_WHILE_RUNNING, (Run.erase, "r"), RunErased(reason="r")),
        (ERASED, complete(9), completed(duration_ms=420_000, late=True)),
    ],
    ids=[
        "start",
        "complete",
        "complete with a duration",
        "complete before the start",
        "fail",
        "fail before a start",
        "fail before a start with a duration",
        "cancel",
        "cancel before a start",
        "complete at the closing of the line",
        "fail before the closing of the line",
        "fail before a start at the closing of the line",
        "erase a run that a closing has cancelled",
        "complete an erased run at the closing of the line",
    ],
)
def test_a_run_accepts_a_command_that_fits_its_status(
    past: list[Past], command: Any, event: Any
) -> None:
    given(*past).when(*command).then(event)


@pytest.mark.parametrize(
    ("past", "command"),
    [
        (RUNNING, (start, None, None)),
        (RUNNING_AT_ONCE, (start, None, None)),
        (CLOSED_WHILE_PENDING, (start, None, None)),
        (PENDING, complete(3)),
        (CLOSED_WHILE_PENDING, complete(3)),
        (CLOSED_WHILE_RUNNING, complete(9.01)),
        (CLOSED_WHILE_RUNNING, fail(9.01)),
        (CLOSED_WHILE_RUNNING, cancel(3)),
        (ERASED, complete(9.01)),
        ([*ERASED, at_minute(6, completed(late=True))], fail(6)),
        ([*RUNNING, RunCompleted(), RunErased(reason="r")], cancel(3)),
    ],
)
def test_a_run_refuses_a_command_that_does_not_fit_its_status(
    past: list[Past], command: Any
) -> None:
    given(*past).when(*command).then(InvalidState)


@pytest.mark.parametrize("ending", [RunCompleted(), RunFailed(), RunCancelled()])
@pytest.mark.parametrize("command", [complete(2), fail(2), cancel(2)])
def test_an_ended_run_does_not_end_again(ending: Any, command: Any) -> None:
    given(STARTED_AT_ONCE, at_minute(5, ending)).when(*command).then(InvalidState)


@pytest.mark.parametrize("late", [RunCompleted(late=True), RunFailed(late=True)])
@pytest.mark.parametrize("command", [complete(2), fail(2), cancel(2)])
def test_a_run_that_ended_late_does_not_end_again(late: Any, command: Any) -> None:
    ended_late = given(STARTED_AT_ONCE, at_minute(9, CANCELLED_BY_CLOSING), at_minute(5, late))
    ended_late.when(*command).then(InvalidState)


def test_a_completed_run_has_the_values_of_all_its_events() -> None:
    run = after(
        at_minute(1, REQUESTED), at_minute(2, STARTED), at_minute(5, completed(duration_ms=4))
    )
    assert (run.status, run.triggered_by) == ("completed", USER)
    assert (run.requested_at, run.started_at, run.completed_at) == (minute(1), minute(2), minute(5))
    assert (run.duration_ms, run.tokens_used, run.version) == (4, 7, 3)
    assert (run.service_line_id, run.organization_id) == ("LIN-26-000001", "ORG-26-000001")


def test_a_run_whose_first_event_is_its_start_was_requested_at_that_instant() -> None:
    run = after(at_minute(2, STARTED_AT_ONCE))
    assert (run.status, run.triggered_by) == ("running", API)
    assert run.requested_at == run.started_at == minute(2)


def test_a_late_ending_replaces_the_cancellation() -> None:
    failed_late = RunFailed(tokens_used=2, late=True)
    run = after(STARTED_AT_ONCE, at_minute(9, CANCELLED_BY_CLOSING), at_minute(5, failed_late))
    assert (run.status, run.completed_at, run.tokens_used) == ("failed", minute(5), 2)
    assert run.cancelled_by_closing is False


def test_a_cancelled_run_has_the_tokens_that_its_reporter_tells() -> None:
    cancel = (Run.cancel, minute(3), "r", USED)
    event = RunCancelled(reason="r", duration_ms=60_000, tokens_used=7, token_usage=BY_MODEL)
    given(*RUNNING_AT_ONCE).when(*cancel).then(event)
    assert after(*RUNNING_AT_ONCE, event).token_usage == BY_MODEL


ENDINGS = [
    completed(),
    failed(),
    RunCancelled(tokens_used=7),
    RunCompleted(tokens_used=7, late=True),
]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("used", [Used(9), Used(5, (TokenUsage("n", 5),)), Used(0)])
def test_a_correction_replaces_the_tokens_of_an_ended_run(ending: Any, used: Used) -> None:
    past = [STARTED_AT_ONCE, at_minute(5, ending)]
    corrected = RunUsageCorrected(
        tokens_used=used.tokens or 0, token_usage=used.by_model, previous=7, reason="r"
    )
    given(*past).when(Run.correct, used, "r").then(corrected)
    run = after(*past, at_minute(8, corrected))
    assert (run.tokens_used, run.token_usage, run.usage_corrected_at) == (*used, minute(8))
    assert (run.completed_at, run.status) == (minute(5), after(*past).status)
    again = RunUsageCorrected(tokens_used=1, previous=used.tokens)
    given(*past, at_minute(8, corrected)).when(Run.correct, Used(1), None).then(again)


@pytest.mark.parametrize(
    "past",
    [
        PENDING,
        RUNNING,
        CLOSED_WHILE_RUNNING,
        CLOSED_WHILE_PENDING,
        [STARTED_AT_ONCE, at_minute(9, RunFailed(lease_expired=True))],
    ],
    ids=["pending", "running", "closed", "closed while pending", "lease expired"],
)
def test_a_run_whose_ending_may_still_come_accepts_no_correction(past: list[Past]) -> None:
    given(*past).when(Run.correct, USED, None).then(InvalidState)


def test_a_run_that_ended_late_accepts_a_correction() -> None:
    late = RunFailed(tokens_used=2, late=True)
    past = [STARTED_AT_ONCE, at_minute(9, CANCELLED_BY_CLOSING), at_minute(5, late)]
    event = RunUsageCorrected(tokens_used=7, token_usage=BY_MODEL, previous=2)
    given(*past).when(Run.correct, USED, None).then(event)


KEY_CREATED = ApiKeyCreated(secret_hash=b"h", permissions=("read",))


def test_a_key_is_revoked_once() -> None:
    given(KEY_CREATED).when(ApiKey.revoke).then(ApiKeyRevoked())
    given(KEY_CREATED, ApiKeyRevoked()).when(ApiKey.revoke).then(InvalidState)


def test_a_key_belongs_to_the_tenant_that_it_was_created_for() -> None:
    key = after(KEY_CREATED, ApiKeyRevoked())
    assert (key.organization_id, key.workspace_id) == ("ORG-26-000001", "WS-26-000001")
