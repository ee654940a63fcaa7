"""Flushes, a queue that is full, and the lines of the log about refusals."""

import asyncio
import gc
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from execution_ledger import AsyncLedger, Flushed, Ledger, _refusals, reporter
from execution_ledger.testing import FakeLedger

from tests.client.background import LINE, Switch, even_ones, numbers, report
from tests.client.support import Refusals, Reply, StandIn, accept, problem
from tests.support.views import until


@pytest.fixture
def ledger(stand_in: StandIn, refusals: Refusals) -> Iterator[Ledger]:
    ledger = Ledger(stand_in.address, "elk_test", source="/tests", on_refused=refusals)
    yield ledger
    ledger.close(1.0)


def in_thread(function: Any, *arguments: Any) -> "tuple[threading.Thread, list[Any]]":
    """Begin a function in a thread, which puts its value into a list."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function(*arguments)))
    thread.start()
    return thread, results


def own_threads() -> set[threading.Thread]:
    """The threads of this process, without those in which the stand-in answers."""
    return {t for t in threading.enumerate() if "process_request" not in t.name}


# Flushes


def test_flushes_one_after_the_other_tell_each_outcome_once(ledger: Ledger, switch: Switch) -> None:
    switch.answer = even_ones
    report(ledger, *range(5))
    first = ledger.flush(10.0)
    assert isinstance(first, Flushed)
    assert (first.recorded, first.refused, first.waiting, bool(first)) == (3, 2, 0, False)
    assert ledger.flush(10.0) == (0, 0, 0)
    report(ledger, 6)
    assert (ledger.flush(10.0), ledger.refused, ledger.waiting) == ((1, 0, 0), 2, 0)
    assert Flushed(7, 0, 0)
    assert not Flushed(7, 0, 1)
    ledger.report("execution.checked_in", LINE, {"n": object()})
    assert ledger.close(10.0) == (0, 1, 0)
    report(ledger, 8)
    assert (ledger.flush(10.0), ledger.refused) == ((0, 1, 0), 4)


def test_facts_that_a_flush_left_are_counted_again_by_the_next(
    ledger: Ledger, stand_in: StandIn, switch: Switch
) -> None:
    is_open = threading.Event()
    switch.answer = lambda request: accept(request) if is_open.wait(20.0) else Reply(0)
    report(ledger, 1, 2)
    until(lambda: stand_in.requests, "an attempt")
    assert ledger.flush(0.0) == (0, 0, 2)  # one of them was sent
    assert ledger.waiting == 2
    is_open.set()
    assert ledger.flush(10.0) == (2, 0, 0)


def test_flushes_side_by_side_count_from_the_last_one_that_had_returned(
    ledger: Ledger, stand_in: StandIn, switch: Switch
) -> None:
    report(ledger, 2)
    assert ledger.flush(10.0) == (1, 0, 0)
    switch.away()
    report(ledger, 4)
    until(lambda: len(stand_in.requests) > 1, "an attempt")
    threads = [in_thread(ledger.flush, 20.0) for _ in range(2)]
    until(lambda: len(ledger._reporter._outcomes._flushes) == 2, "both flushes")
    assert ledger.flush(0.0) == (0, 0, 1)
    switch.back()
    for thread, result in threads:
        thread.join()
        assert result == [(1, 0, 0)]
    assert ledger.flush(10.0) == (0, 0, 0)


def test_a_flush_that_is_cancelled_counts_nothing_and_holds_no_thread(
    stand_in: StandIn, switch: Switch
) -> None:
    async def work() -> tuple[Flushed, int]:
        async with AsyncLedger(stand_in.address, "elk_test") as ledger:
            switch.away()
            ledger.report("execution.checked_in", LINE, {"n": 1})
            before = own_threads()  # other tests of this process may have left some
            flushing = asyncio.create_task(ledger.flush(60.0))
            while len(stand_in.requests) < 3:
                await asyncio.sleep(0)
            assert own_threads() <= before
            flushing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await flushing
            switch.back()
            return await ledger.flush(10.0), ledger.waiting

    assert asyncio.run(work()) == ((1, 0, 0), 0)


def test_a_flush_within_the_callback_returns_at_once(stand_in: StandIn, switch: Switch) -> None:
    flushed: list[Flushed] = []
    switch.answer = lambda _: problem(401, "unauthorized")
    with Ledger(
        stand_in.address, "elk_test", on_refused=lambda *_: flushed.append(ledger.flush(60.0))
    ) as ledger:
        report(ledger, 1)
        assert ledger.flush(10.0) == (0, 1, 0)
        switch.away()
        report(ledger, 2)
        until(lambda: len(stand_in.requests) > 1, "an attempt")
        ledger.report("execution.checked_in", LINE, {"n": object()})  # told in this thread
        switch.back()
    assert flushed == [(0, 1, 0), (0, 1, 1)]


def test_a_client_that_is_closed_ends_flushes_and_closes_within_the_callback(
    ledger: Ledger, stand_in: StandIn, switch: Switch, caplog: Any
) -> None:
    switch.away()
    report(ledger, 1)
    until(lambda: stand_in.requests, "an attempt")
    thread, results = in_thread(ledger.flush, 60.0)
    until(lambda: len(ledger._reporter._outcomes._flushes) == 1, "the flush")
    assert ledger.close(0.0) == (0, 0, 1)
    thread.join()
    assert results == [(0, 0, 1)]
    assert ledger.close(60.0) == (0, 0, 1)
    assert caplog.text.count("1 facts were not judged by the ledger, and are lost.") == 1
    switch.answer = lambda _: problem(401, "unauthorized")
    closing: list[Flushed] = []
    other = Ledger(
        stand_in.address, "elk_test", on_refused=lambda *_: closing.append(other.close(60.0))
    )
    report(other, 1)
    until(lambda: closing, "the end of the client")
    assert "on_refused has failed" not in caplog.text


def test_a_fake_ledger_shows_facts_without_counting_them() -> None:
    with FakeLedger() as ledger:
        ledger.refuse("execution.*")
        ledger.report("execution.checked_in", LINE)
        assert (ledger.facts, ledger.reported_runs) == ([], [])
        assert ledger.flush() == (0, 1, 0)


# A full queue


@pytest.fixture
def full(ledger: Ledger, switch: Switch, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A client whose queue has no room."""
    monkeypatch.setattr(reporter, "MAX_FACTS", 10)
    switch.away()
    report(ledger, *range(10))
    return ledger


def test_a_report_waits_for_room_if_requested(
    full: Ledger, stand_in: StandIn, switch: Switch, refusals: Refusals
) -> None:
    def wait(number: int) -> None:
        full.report("execution.checked_in", LINE, {"n": number}, id=f"fact-{number}", wait=True)

    thread, _ = in_thread(lambda: [wait(number) for number in range(10, 100)])
    full.report("execution.checked_in", LINE, {"n": 100}, wait=0.01)
    assert (refusals.codes, thread.is_alive()) == (["queue_full"], True)
    switch.back()
    thread.join()
    assert full.flush(10.0) == (100, 1, 0)
    assert list(dict.fromkeys(numbers(stand_in))) == list(range(100))


def test_a_flush_waits_for_a_report_that_waits_for_room(full: Ledger, switch: Switch) -> None:
    arguments = ("execution.checked_in", LINE, {"n": 10})
    reporting, _ = in_thread(lambda: full.report(*arguments, wait=60))
    until(lambda: full.waiting == 11, "the report")
    assert full.flush(0.0) == (0, 0, 11)
    flushing, results = in_thread(full.flush, 20.0)
    until(lambda: full._reporter._outcomes._flushes, "the flush")
    switch.back()
    reporting.join()
    flushing.join()
    assert (results, full.waiting) == ([(11, 0, 0)], 0)


def test_a_client_that_is_closed_refuses_what_waits_for_room(
    full: Ledger, refusals: Refusals, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "JOIN_SECONDS", 0.0)
    arguments = ("execution.checked_in", LINE, {"n": 10})
    thread, _ = in_thread(lambda: full.report(*arguments, wait=60))
    until(lambda: full.waiting == 11, "the report")
    with full._reporter._changed:  # the log counts before the report is refused
        assert full.close(0.0) == (0, 0, 11)
    thread.join()
    assert (refusals.codes, full.refused, full.waiting) == (["closed"], 1, 10)
    assert "10 facts were not judged by the ledger, and are lost." in caplog.text


def test_nothing_waits_within_the_callback_or_where_a_run_reports(
    stand_in: StandIn, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "MAX_FACTS", 1)
    switch.away()
    codes: list[str | None] = []

    def again(fact: dict[str, Any], problem: Any) -> None:
        codes.append(problem.code)
        if len(codes) == 1:
            ledger.report("execution.checked_in", LINE, {"n": 2}, wait=True)

    with Ledger(stand_in.address, "elk_test", on_refused=again) as ledger:
        report(ledger, 0, 1)
        with ledger.run(LINE) as run:
            assert run.refusal is not None
        assert codes == ["queue_full"] * 3
        switch.back()


def test_a_loop_goes_on_while_a_report_waits_for_room(
    stand_in: StandIn, switch: Switch, refusals: Refusals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "MAX_FACTS", 10)
    switch.away()

    async def work() -> Flushed:
        async with AsyncLedger(stand_in.address, "elk_test", on_refused=refusals) as ledger:

            def wait(number: int, seconds: float | bool = True) -> Any:
                return ledger.report("execution.checked_in", LINE, {"n": number}, wait=seconds)

            assert ledger.report("execution.checked_in", LINE, {"n": 0}) is None  # type: ignore[func-returns-value]
            for number in range(1, 9):
                await wait(number)
            wait(9)  # there is room: the fact is queued, also if nobody awaits
            await wait(10, 0.01)
            assert refusals.codes == ["queue_full"]
            waiting = [asyncio.create_task(wait(number)) for number in range(10, 100)]
            cancelled = asyncio.create_task(wait(100))
            await asyncio.sleep(0)
            assert ledger.waiting == 10 + 90 + 1
            cancelled.cancel()
            await asyncio.wait([cancelled])
            assert ledger.waiting == 10 + 90
            switch.back()
            await asyncio.wait_for(asyncio.gather(*waiting), 20)
            return await ledger.flush(10.0)

    assert asyncio.run(work()) == (100, 1, 0)
    gc.collect()  # would warn of a coroutine that was never awaited
    assert sorted(set(numbers(stand_in))) == list(range(100))


# The log


def test_the_log_names_the_first_refusal_of_each_code_and_counts_the_others(
    ledger: Ledger, switch: Switch, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_refusals, "LINE_SECONDS", 0.01)
    for number in range(1_200):
        ledger.report("execution.checked_in", LINE, {"n": object()}, id=f"fact-{number}")
    fact = {"type": "run.started", "data": {"service_line_id": LINE, "n": object()}}
    assert (
        caplog.records[0]
        .getMessage()
        .startswith(
            f"The ledger has refused execution.checked_in about {LINE} (fact-0): not_sendable: "
        )
    )
    until(lambda: _count_logged(caplog) == 1_199, "the number of the others")
    switch.answer = lambda _: problem(401, "unauthorized")
    report(ledger, 1, 2, 3)
    monkeypatch.setattr(_refusals, "LINE_SECONDS", 60.0)
    ledger.report(fact)
    ledger.close(10.0)
    messages = [record.getMessage() for record in caplog.records]
    assert f"about {LINE} (fact-1): 401 unauthorized: No. (request r-1)" in "\n".join(messages)
    assert _count_logged(caplog) == 1_199 + 2 + 1
    assert [record.levelname for record in caplog.records] == ["ERROR"] * len(messages)


def _count_logged(caplog: Any) -> int:
    """The sum of the refusals that lines of the log have counted."""
    pattern = r"([\d,]+) more facts? (?:was|were) refused since \d\d:\d\d:\d\d: [a-z_, ]+$"
    counts = re.findall(pattern, "\n".join(r.getMessage() for r in caplog.records), re.M)
    return sum(int(count.replace(",", "")) for count in counts)
