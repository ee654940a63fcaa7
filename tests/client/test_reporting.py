"""Facts that are reported in the background: order, refusals, memory, forks, a program's end."""

import asyncio
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from execution_ledger import AsyncLedger, Ledger, reporter

from tests.client.support import (
    ENVIRONMENT,
    Asked,
    Refusals,
    Reply,
    Service,
    StandIn,
    problem,
    taken,
)
from tests.support.served import free_port
from tests.support.views import until

LINE = "LIN-26-000001"


class Switch:
    """A stand-in's answer that a test changes."""

    def __init__(self) -> None:
        self.answer: Callable[[Asked], Reply] = taken

    def __call__(self, asked: Asked) -> Reply:
        return self.answer(asked)

    def away(self) -> None:
        """Close each connection without an answer."""
        self.answer = lambda _: Reply(0)

    def back(self) -> None:
        """Record each fact."""
        self.answer = taken


@pytest.fixture
def switch() -> Switch:
    return Switch()


@pytest.fixture
def stand_in(switch: Switch, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(reporter, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(reporter, "LONGEST_PAUSE", 0.01)
    with StandIn(switch).serving() as stand_in:
        yield stand_in


@pytest.fixture
def refusals() -> Refusals:
    return Refusals()


@pytest.fixture
def ledger(stand_in: StandIn, refusals: Refusals) -> Iterator[Ledger]:
    ledger = Ledger(stand_in.address, "elk_test", source="/tests", on_refused=refusals)
    yield ledger
    ledger.close(1.0)


def numbers(stand_in: StandIn) -> list[int]:
    """The numbers of the facts that arrived in requests, in their order."""
    batches = [asked.json for asked in stand_in.asked if asked.body]
    return [fact["data"]["n"] for batch in batches for fact in batch]


def report(ledger: Ledger, *of: int) -> None:
    """Report numbered facts."""
    for number in of:
        ledger.report("execution.checked_in", LINE, {"n": number}, id=f"fact-{number}")


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


def test_a_refused_fact_is_told_with_its_reason(
    options: dict[str, Any], service: Service, refusals: Refusals, caplog: Any
) -> None:
    line = service.edge.fresh()
    with Ledger(**options | {"on_refused": refusals}) as ledger:
        ledger.report("execution.unblocked", line, {"blocker_id": "none"})
        ledger.report({"type": "execution.checked_in", "subject": line, "data": {"hours": "1"}})
        ledger.report("execution.checked_in", line, {"hours": 1}, id="good")
        assert ledger.flush(30.0)
    assert refusals.codes == ["invalid_state", "invalid_request"]
    (first, _), (_, second) = refusals
    assert (first["type"], first["subject"]) == ("execution.unblocked", line)
    assert [place.pointer for place in second.errors] == ["/data/hours"]
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
        assert ledger.flush(30.0)
    assert refusals.codes == ["unauthorized"]


# A service that fails


def test_facts_wait_for_a_service_that_is_away_and_keep_their_order(
    ledger: Ledger, stand_in: StandIn, switch: Switch, caplog: Any
) -> None:
    switch.away()
    report(ledger, *range(100))
    until(lambda: len(stand_in.asked) > 2, "attempts")
    assert not ledger.flush(0.0)
    switch.back()
    report(ledger, *range(100, 200))
    assert ledger.flush(10.0)
    told = numbers(stand_in)
    assert list(dict.fromkeys(told)) == list(range(200))
    assert caplog.text.count("The ledger takes no facts, and ") == 1
    assert len(told) > 200  # sent again, under the same ids
    ids = {(fact["data"]["n"], fact["id"]) for asked in stand_in.asked for fact in asked.json}
    assert len(ids) == 200


def test_a_fact_is_made_once_with_an_id_and_the_time_of_its_report(
    ledger: Ledger, stand_in: StandIn, switch: Switch
) -> None:
    switch.away()
    ledger.report("execution.checked_in", LINE, {"hours": 1})
    until(lambda: len(stand_in.asked) > 2, "attempts")
    switch.back()
    assert ledger.flush(10.0)
    sent = {(fact["id"], fact["time"]) for asked in stand_in.asked for fact in asked.json}
    assert len(sent) == 1


def test_a_service_without_a_route_for_batches_gets_arrays(
    ledger: Ledger, stand_in: StandIn, switch: Switch
) -> None:
    def answer(asked: Asked) -> Reply:
        return taken(asked) if asked.path == "/v1/facts" else problem(405, "method_not_allowed")

    switch.answer = answer
    report(ledger, 1)
    assert ledger.flush(10.0)
    report(ledger, 2)
    assert ledger.flush(10.0)
    paths = [asked.path for asked in stand_in.asked]
    assert paths == ["/v1/facts/batch", "/v1/facts", "/v1/facts"]


def test_a_fact_that_spoils_its_batch_is_found(
    ledger: Ledger, stand_in: StandIn, switch: Switch, refusals: Refusals
) -> None:
    def answer(asked: Asked) -> Reply:
        if any(fact["data"]["n"] == 13 for fact in asked.json):
            return problem(413, "too_large")
        return taken(asked)

    switch.away()
    report(ledger, *range(40))
    until(lambda: len(stand_in.asked) > 0, "an attempt")
    switch.answer = answer
    assert ledger.flush(10.0)
    assert [fact["data"]["n"] for fact, _ in refusals] == [13]
    assert refusals.codes == ["too_large"]


def test_a_fact_that_was_not_judged_is_sent_again(
    ledger: Ledger, stand_in: StandIn, switch: Switch, refusals: Refusals
) -> None:
    def answer(asked: Asked) -> Reply:
        reply = taken(asked)
        for item, fact in zip(reply.body["data"], asked.json, strict=True):
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
    assert ledger.flush(10.0)
    report(ledger, 60)
    assert len(refusals) == 10


def test_a_batch_stays_below_the_bounds_of_a_request(
    ledger: Ledger, stand_in: StandIn, switch: Switch
) -> None:
    switch.away()
    text = "x" * 200_000
    for number in range(50):
        ledger.report("execution.checked_in", LINE, {"n": number, "note": text})
    until(lambda: len(stand_in.asked) > 0, "an attempt")
    switch.back()
    report(ledger, *range(50, 3_000))
    assert ledger.flush(30.0)
    assert max(len(asked.body) for asked in stand_in.asked) < 8 * 1024 * 1024
    assert max(len(asked.json) for asked in stand_in.asked) == 1_000


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
    assert ledger.flush(10.0)
    assert refusals.codes == ["not_sendable"] * 3
    assert str(refusals[0][1]).startswith("not_sendable: The fact cannot be sent: ")


def test_an_error_of_the_callback_goes_to_the_log(stand_in: StandIn, caplog: Any) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("of the callback")

    with Ledger(stand_in.address, "elk_test", on_refused=fail) as ledger:
        ledger.report("execution.checked_in", LINE, {"n": object()})
        report(ledger, 1)
        assert ledger.flush(10.0)
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


def test_a_flush_in_the_callback_does_not_wait_for_itself(
    stand_in: StandIn, switch: Switch
) -> None:
    flushed: list[bool] = []
    switch.answer = lambda _: problem(401, "unauthorized")

    def flush(*_: object) -> None:
        flushed.append(ledger.flush(60.0))

    with Ledger(stand_in.address, "elk_test", on_refused=flush) as ledger:
        report(ledger, 1)
        assert ledger.flush(10.0)
    assert flushed == [False]


def test_a_fork_begins_with_an_empty_queue_and_connections_of_its_own(
    ledger: Ledger, stand_in: StandIn, switch: Switch
) -> None:
    switch.answer = lambda asked: Reply(204)
    ledger.runs.heartbeat("RUN-26-000001")
    switch.away()
    report(ledger, 1)
    until(lambda: len(stand_in.asked) > 0, "an attempt")
    switch.answer = lambda asked: taken(asked) if asked.body else Reply(204)
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
            while len(stand_in.asked) < 3:
                await asyncio.sleep(0)
            assert not flushing.done()
            switch.back()
            return await flushing

    assert asyncio.run(work())
    assert set(numbers(stand_in)) == {1}


# The spool


def spooled(stand_in: StandIn, folder: Path, **more: Any) -> Ledger:
    return Ledger(stand_in.address, "elk_test", source="/tests", spool=folder, **more)


def test_a_spool_keeps_what_a_closed_client_could_not_send(
    stand_in: StandIn, switch: Switch, tmp_path: Path, caplog: Any
) -> None:
    switch.away()
    first = spooled(stand_in, tmp_path / "spool")
    report(first, *range(100))
    assert not first.close(0.0)
    assert "100 facts were not judged by the ledger, and stay in the spool." in caplog.text
    assert len(list((tmp_path / "spool").glob("*.spool"))) == 1
    switch.back()
    stand_in.asked.clear()
    with spooled(stand_in, tmp_path / "spool") as second:
        report(second, 100)
        assert second.flush(10.0)
    assert numbers(stand_in) == list(range(101))
    assert list((tmp_path / "spool").iterdir()) == []


def test_two_processes_share_the_directory_of_a_spool(stand_in: StandIn, tmp_path: Path) -> None:
    with spooled(stand_in, tmp_path) as one, spooled(stand_in, tmp_path) as other:
        report(one, 1)
        report(other, 2)
        assert one.flush(10.0)
        assert other.flush(10.0)
        report(one, 3)
    assert sorted(numbers(stand_in)) == [1, 2, 3]


def test_a_refused_token_leaves_facts_in_the_spool(
    stand_in: StandIn, switch: Switch, tmp_path: Path, refusals: Refusals
) -> None:
    switch.answer = lambda _: problem(401, "unauthorized")
    with spooled(stand_in, tmp_path, on_refused=refusals) as ledger:
        report(ledger, 1)
        until(lambda: len(stand_in.asked) > 0, "an attempt")
        switch.back()
        assert ledger.flush(10.0)
    assert refusals == []
    assert numbers(stand_in)[-1] == 1


def test_a_spool_that_takes_nothing_refuses(
    stand_in: StandIn, tmp_path: Path, refusals: Refusals
) -> None:
    (tmp_path / "file").touch()
    with spooled(stand_in, tmp_path / "file", on_refused=refusals) as ledger:
        report(ledger, 1)
        assert ledger.flush(10.0)
    assert refusals.codes == ["spool_failed"]


def test_a_damaged_file_in_the_spool_stops_nothing(
    stand_in: StandIn, tmp_path: Path, caplog: Any
) -> None:
    (tmp_path / "1.spool").write_bytes(b"no database" * 1_000)
    with spooled(stand_in, tmp_path) as first:
        report(first, 1)
        assert first.flush(10.0)
        kept = tmp_path / "2.spool"
    with sqlite3.connect(kept) as database:
        database.execute("CREATE TABLE fact (number INTEGER PRIMARY KEY, other TEXT)")
        database.execute("INSERT INTO fact VALUES (1, 'text')")
    database.close()
    with spooled(stand_in, tmp_path) as second:
        report(second, 2)
        assert second.flush(10.0)
    assert numbers(stand_in) == [1, 2]
    assert kept.exists()


def test_memory_stays_free_while_a_spool_waits(
    stand_in: StandIn, switch: Switch, tmp_path: Path, monkeypatch: Any, refusals: Refusals
) -> None:
    monkeypatch.setattr(reporter, "MAX_FACTS", 500)
    switch.away()
    ledger = spooled(stand_in, tmp_path, on_refused=refusals)
    for first in range(0, 2_000, 100):
        report(ledger, *range(first, first + 100))
        until(lambda: len(ledger._reporter._memory) == 0, "the spool to take facts")
    assert refusals == []
    switch.back()
    assert ledger.close(30.0)
    assert list(dict.fromkeys(numbers(stand_in))) == list(range(2_000))
