"""Facts that are reported in the background: order, refusals, memory, forks, a program's end."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from execution_ledger import AsyncLedger, Ledger, reporter

from tests.client.background import LINE, Switch, numbers, report
from tests.client.support import (
    ENVIRONMENT,
    Refusals,
    Reply,
    Request,
    Service,
    StandIn,
    accept,
    problem,
)
from tests.support.served import free_port
from tests.support.views import until


@pytest.fixture
def ledger(stand_in: StandIn, refusals: Refusals) -> Iterator[Ledger]:
    ledger = Ledger(stand_in.address, "elk_test", source="/tests", on_refused=refusals)
    yield ledger
    ledger.close(1.0)


# The ledger itself


def test_reported_facts_are_recorded_in_their_order(
    options: dict[str, Any], service: Service
) -> None:
    line = service.edge.fresh()
    with Ledger(**options) as ledger:
        for number in range(1_200):
            ledger.report("execution.checked_in", line, {"note": str(number)})
        assert ledger.flush(30.0)
        _, *items = ledger.lines.history(line, limit=100)
        notes = [item.payload["note"] for item in items]
    assert notes == [str(number) for number in range(1_200)]


def test_a_refused_fact_is_reported_with_its_reason(
    options: dict[str, Any], service: Service, refusals: Refusals, caplog: Any
) -> None:
    line = service.edge.fresh()
    with Ledger(**options | {"on_refused": refusals}) as ledger:
        ledger.report("execution.unblocked", line, {"blocker_id": "none"})
        ledger.report({"type": "execution.checked_in", "subject": line, "data": {"hours": "1"}})
        ledger.report("execution.checked_in", line, {"hours": 1}, id="good")
        assert ledger.flush(30.0) == (1, 2, 0)
    assert refusals.codes == ["invalid_state", "invalid_request"]
    (first, _), (_, second) = refusals
    assert (first["type"], first["subject"]) == ("execution.unblocked", line)
    assert [error.pointer for error in second.errors] == ["/data/hours"]
    assert "The ledger has refused execution.unblocked about" in caplog.text


def test_a_fact_reported_by_two_processes_under_one_id_is_recorded_once(
    options: dict[str, Any], service: Service, refusals: Refusals
) -> None:
    line = service.edge.fresh()
    for _ in range(2):  # without a time, which would be another one
        with Ledger(**options) as ledger:
            ledger.report("execution.checked_in", line, {"hours": 2}, id="row-17")
            assert ledger.flush(30.0)
    assert refusals == []
    events = service.edge.data(f"/v1/execution/{line}/history")
    assert [event["type"] for event in events] == ["execution.started", "execution.checked_in"]


def test_a_wrong_token_refuses_and_never_raises(
    options: dict[str, Any], refusals: Refusals
) -> None:
    with Ledger(**options | {"token": "elk_wrong", "on_refused": refusals}) as ledger:
        report(ledger, 1)
        assert ledger.flush(30.0) == (0, 1, 0)
    assert refusals.codes == ["unauthorized"]


# A service that fails


def test_facts_wait_for_a_service_that_is_away_and_keep_their_order(
    ledger: Ledger, stand_in: StandIn, switch: Switch, caplog: Any
) -> None:
    switch.away()
    report(ledger, *range(100))
    until(lambda: len(stand_in.requests) > 2, "attempts")
    assert not ledger.flush(0.0)
    switch.back()
    report(ledger, *range(100, 200))
    assert ledger.flush(10.0)
    reported = numbers(stand_in)
    assert list(dict.fromkeys(reported)) == list(range(200))
    assert caplog.text.count("The ledger takes no facts, and ") == 1
    assert len(reported) > 200  # sent again, under the same ids
    ids = {(fact["data"]["n"], fact["id"]) for each in stand_in.requests for fact in each.json}
    assert len(ids) == 200


def test_a_fact_is_made_once_with_an_id_and_the_time_of_its_report(
    ledger: Ledger, stand_in: StandIn, switch: Switch
) -> None:
    switch.away()
    ledger.report("execution.checked_in", LINE, {"hours": 1})
    until(lambda: len(stand_in.requests) > 2, "attempts")
    switch.back()
    assert ledger.flush(10.0)
    sent = {(fact["id"], fact["time"]) for each in stand_in.requests for fact in each.json}
    assert len(sent) == 1


def test_a_service_without_a_route_for_batches_gets_arrays(
    ledger: Ledger, stand_in: StandIn, switch: Switch
) -> None:
    def answer(sent: Request) -> Reply:
        return accept(sent) if sent.path == "/v1/facts" else problem(405, "method_not_allowed")

    switch.answer = answer
    report(ledger, 1)
    assert ledger.flush(10.0)
    report(ledger, 2)
    assert ledger.flush(10.0)
    paths = [request.path for request in stand_in.requests]
    assert paths == ["/v1/facts/batch", "/v1/facts", "/v1/facts"]


def test_a_fact_that_spoils_its_batch_is_found(
    ledger: Ledger, stand_in: StandIn, switch: Switch, refusals: Refusals
) -> None:
    def answer(request: Request) -> Reply:
        if any(fact["data"]["n"] == 13 for fact in request.json):
            return problem(413, "too_large")
        return accept(request)

    switch.away()
    report(ledger, *range(40))
    until(lambda: len(stand_in.requests) > 0, "an attempt")
    switch.answer = answer
    assert ledger.flush(10.0) == (39, 1, 0)
    assert [fact["data"]["n"] for fact, _ in refusals] == [13]
    assert refusals.codes == ["too_large"]


def test_a_fact_that_was_not_judged_is_sent_again(
    ledger: Ledger, stand_in: StandIn, switch: Switch, refusals: Refusals
) -> None:
    def answer(request: Request) -> Reply:
        reply = accept(request)
        for item, fact in zip(reply.body["data"], request.json, strict=True):
            if fact["data"]["n"] == 1 and numbers(stand_in).count(1) < 4:
                error = {"status": 503, "code": "unavailable", "detail": "Later.", "errors": []}
                item |= {"outcome": "refused", "error": error}
        return reply

    switch.answer = answer
    report(ledger, 0, 1, 2)
    assert ledger.flush(10.0)
    assert refusals == []
    assert numbers(stand_in).count(1) == 4
    assert numbers(stand_in).count(2) == 1


def test_memory_is_bounded_and_the_newest_facts_are_refused(
    ledger: Ledger, switch: Switch, refusals: Refusals, caplog: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(reporter, "MAX_FACTS", 50)
    switch.away()
    report(ledger, *range(60))
    assert [fact["data"]["n"] for fact, _ in refusals] == list(range(50, 60))
    assert set(refusals.codes) == {"queue_full"}
    assert caplog.text.count("queue_full") == 1
    switch.back()
    assert ledger.flush(10.0) == (50, 10, 0)
    report(ledger, 60)
    assert ledger.flush(10.0) == (1, 0, 0)


def test_a_batch_stays_below_the_bounds_of_a_request(
    ledger: Ledger, stand_in: StandIn, switch: Switch
) -> None:
    switch.away()
    text = "x" * 200_000
    for number in range(50):
        ledger.report("execution.checked_in", LINE, {"n": number, "note": text})
    until(lambda: len(stand_in.requests) > 0, "an attempt")
    switch.back()
    report(ledger, *range(50, 3_000))
    assert ledger.flush(30.0)
    assert max(len(request.body) for request in stand_in.requests) < 8 * 1024 * 1024
    assert max(len(request.json) for request in stand_in.requests) == 1_000


# The host


def test_reporting_never_raises_into_its_host(
    ledger: Ledger, stand_in: StandIn, refusals: Refusals, caplog: Any
) -> None:
    circle: dict[str, Any] = {}
    circle["self"] = circle
    for data in ({"n": object()}, circle):
        ledger.report("execution.checked_in", LINE, data)
    ledger.report("execution.checked_in", LINE, {"n": 1}, time="not a time")
    ledger.report(None)  # type: ignore[arg-type]
    assert ledger.flush(10.0) == (1, 3, 0)
    assert refusals.codes == ["not_sendable"] * 3
    assert str(refusals[0][1]).startswith("not_sendable: The fact cannot be sent: ")


def test_an_error_of_the_callback_goes_to_the_log(stand_in: StandIn, caplog: Any) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("of the callback")

    with Ledger(stand_in.address, "elk_test", on_refused=fail) as ledger:
        ledger.report("execution.checked_in", LINE, {"n": object()})
        report(ledger, 1)
        assert ledger.flush(10.0) == (1, 1, 0)
    assert "on_refused has failed" in caplog.text


def test_a_signal_handler_may_report_while_its_host_reports(
    ledger: Ledger, stand_in: StandIn
) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: report(ledger, 10_000))
    try:
        for number in range(2_000):
            if number % 100 == 0:
                os.kill(os.getpid(), signal.SIGUSR1)
            report(ledger, number)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ledger.flush(10.0)
    assert numbers(stand_in).count(10_000) == 20
    assert [n for n in numbers(stand_in) if n < 10_000] == list(range(2_000))


def test_a_fork_begins_with_an_empty_queue_and_connections_of_its_own(
    ledger: Ledger, stand_in: StandIn, switch: Switch
) -> None:
    switch.answer = lambda request: Reply(204)
    ledger.runs.heartbeat("RUN-26-000001")
    switch.away()
    report(ledger, 1)
    until(lambda: len(stand_in.requests) > 0, "an attempt")
    switch.answer = lambda request: accept(request) if request.body else Reply(204)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        child = os.fork()
    if child == 0:
        report(ledger, 2)
        ledger.runs.heartbeat("RUN-26-000001")
        os._exit(0 if ledger.flush(10.0) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    report(ledger, 3)
    assert ledger.flush(10.0)
    assert sorted(set(numbers(stand_in))) == [1, 2, 3]
    assert numbers(stand_in).count(2) == 1


def _report_in_child(address: str) -> None:
    ledger = Ledger(address, "elk_test")
    report(ledger, 7)


def test_a_child_of_multiprocessing_flushes_at_its_end(stand_in: StandIn) -> None:
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_report_in_child, args=(stand_in.address,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        child.start()
    child.join(60)
    assert (child.exitcode, numbers(stand_in)) == (0, [7])


PROGRAM = """
import sys, threading
from execution_ledger import Ledger
ledger = Ledger(sys.argv[1], "elk_test")
for number in range(3):
    ledger.report("execution.checked_in", "LIN-26-000001", {"n": number})
print("done", flush=True)
"""


def run_program(address: str) -> "subprocess.CompletedProcess[str]":
    """Run a program that reports and ends."""
    command = (sys.executable, "-c", PROGRAM, address)
    return subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_end_of_a_program_flushes(stand_in: StandIn) -> None:
    done = run_program(stand_in.address)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    assert numbers(stand_in) == [0, 1, 2]


@pytest.mark.soak
def test_the_end_of_a_program_waits_a_bounded_time_and_tells_of_the_loss() -> None:
    began = time.monotonic()
    done = run_program(f"http://127.0.0.1:{free_port()}")
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert "3 facts were not judged by the ledger, and are lost." in done.stderr
    assert time.monotonic() - began < reporter.EXIT_SECONDS + 5


def test_an_event_loop_goes_on_while_facts_are_flushed(stand_in: StandIn, switch: Switch) -> None:
    switch.away()

    async def work() -> bool:
        async with AsyncLedger(stand_in.address, "elk_test") as ledger:
            ledger.report("execution.checked_in", LINE, {"n": 1})
            flushing = asyncio.create_task(ledger.flush(30.0))
            while len(stand_in.requests) < 3:
                await asyncio.sleep(0)
            assert not flushing.done()
            switch.back()
            return await flushing

    assert asyncio.run(work())
    assert set(numbers(stand_in)) == {1}
