"""Answers that are not a ledger's: from a wrong address, or from a proxy."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from execution_ledger import (
    AsyncLedger,
    Fault,
    Ledger,
    LedgerError,
    NotFound,
    Unauthorized,
    UnexpectedAnswer,
    _operations,
)
from execution_ledger._async import follow as async_follow
from execution_ledger._operation import File, Operation, Text
from execution_ledger._sync import follow
from execution_ledger.cli.commands import elk as root

from tests.client.background import LINE, Switch, numbers, report
from tests.client.elk_program import Elk
from tests.client.support import ENVIRONMENT, Refusals, Reply, Request, StandIn, accept, problem
from tests.client.test_following import MemoryStore, page
from tests.support.views import until

SECRET = "text-of-the-body"
PAGE = Reply(200, f"<html>{SECRET}</html>".encode(), {"content-type": "Text/HTML; charset=utf-8"})
CUT = Reply(200, f'{{"data": {{"id": "{SECRET}'.encode())
OTHERS: dict[str, Reply] = {
    "page": PAGE,
    "cut off": CUT,
    "list": Reply(200, [SECRET]),
    "empty": Reply(200),
    "other object": Reply(200, {"data": {"id": SECRET, "state": 7}}),
    "no text": Reply(200, b'{"data": "\xff"}'),
    "deep": Reply(200, b"[" * 100_000),
    "no gzip": Reply(200, SECRET.encode(), {"content-encoding": "gzip"}),
    "redirect": Reply(302, None, {"location": "http://elsewhere.test/"}),
    "moved": Reply(308, [SECRET]),
    "page 401": PAGE._replace(status=401),
    "other 403": Reply(403, {"message": SECRET}),
    "other 404": Reply(404, {"detail": SECRET, "code": 404}),
    "empty 404": Reply(404),
}


@pytest.fixture
def ledger(stand_in: StandIn, refusals: Refusals) -> Iterator[Ledger]:
    with Ledger(stand_in.address, "elk_test", source="/tests", on_refused=refusals) as ledger:
        yield ledger


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_an_answer_of_something_else_is_an_error_of_the_client(
    ledger: Ledger, stand_in: StandIn, switch: Switch, other: Reply
) -> None:
    switch.answer = lambda _: other
    media = "text/html" if other.body == PAGE.body else "application/json"
    message = f"{stand_in.address} has not answered as a ledger does ({other.status}, {media})"
    calls: list[Callable[[], Any]] = [
        lambda: ledger.lines.get(LINE),
        lambda: ledger.lines.pause(LINE, reason="Review"),
        lambda: ledger.lines.check_in(LINE, hours=1),
        lambda: ledger.send([{"type": "execution.checked_in", "subject": LINE}]),
        lambda: list(ledger.lines.list()),
        lambda: list(ledger.events.follow(MemoryStore())),
    ]
    for call in calls:
        with pytest.raises(UnexpectedAnswer) as raised:
            call()
        error = raised.value
        assert (error.status, error.content_type) == (other.status, media)
        assert str(error) == f"{message}: is the address right?"
        assert SECRET not in repr(vars(error)) + repr(error.args)
        assert error.__cause__ is None
    assert len(stand_in.requests) == len(calls)


def test_each_route_tells_a_page_and_json_of_another_form(ledger: Ledger, switch: Switch) -> None:
    routes = [each for each in vars(_operations).values() if isinstance(each, Operation)]
    assert len(routes) > 60
    for other in (PAGE, CUT, Reply(200, [SECRET])):
        switch.answer = lambda _, other=other: other  # type: ignore[misc]
        for route in routes:
            if isinstance(route, Text | File) and other is not PAGE:
                continue
            with pytest.raises(UnexpectedAnswer):
                ledger._transport.call(route, *["X-1"] * route.path.count("{"), arguments={})
    switch.answer = lambda _: PAGE
    with pytest.raises(UnexpectedAnswer):
        next(iter(ledger.events.export()))


def test_refusals_of_a_ledger_and_faults_before_it_stay_what_they_are(
    ledger: Ledger, switch: Switch
) -> None:
    errors: list[type[LedgerError]] = [Unauthorized, NotFound, Fault]
    coded = problem(404, "not_found")
    bare = Reply(404, {"title": "Not Found"}, {"content-type": "application/problem+json"})
    refusals = [problem(401, "unauthorized"), coded, PAGE._replace(status=502)]
    for reply, error in [*zip(refusals, errors, strict=True), (bare, NotFound)]:
        switch.answer = lambda _, reply=reply: reply  # type: ignore[misc]
        with pytest.raises(error):
            ledger.lines.get(LINE)
    strange = {"code": "c", "errors": ["no place", {"pointer": "/x"}], "detail": None}
    switch.answer = lambda _: Reply(409, strange, {"retry-after": "²"})
    with pytest.raises(LedgerError, match="409 c: "):
        ledger.lines.get(LINE)


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_background_facts_wait_as_in_an_outage(
    ledger: Ledger, stand_in: StandIn, switch: Switch, refusals: Refusals, other: Reply
) -> None:
    switch.answer = lambda _: other
    report(ledger, 1, 2)
    until(lambda: len(stand_in.requests) > 3, "attempts")
    assert ledger.flush(0.0) == (0, 0, 2)
    switch.back()
    assert ledger.flush(10.0) == (2, 0, 0)
    assert {request.path for request in stand_in.requests} == {"/v1/facts/batch"}
    assert (refusals, sorted(set(numbers(stand_in)))) == ([], [1, 2])


def test_heartbeats_go_on_after_a_page(stand_in: StandIn, switch: Switch) -> None:
    beats: list[Request] = []

    def answer(request: Request) -> Reply:
        if not request.path.endswith("/heartbeat"):
            return accept(request)
        beats.append(request)
        return PAGE._replace(status=404) if len(beats) == 1 else problem(404, "not_found")

    switch.answer = answer
    with Ledger(stand_in.address, "elk_test") as ledger, ledger.run(LINE, lease=0.03):  # type: ignore[arg-type]
        until(lambda: len(beats) == 2, "a second heartbeat")


def test_a_follower_raises_for_its_first_answer_and_waits_at_later_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (follow, async_follow):
        monkeypatch.setattr(module, "RETURN_SECONDS", 0.01)
    broken = page(2)
    broken.body["data"][0] = {"id": SECRET}
    stream = Reply(200, b"data: {}\n\n", {"content-type": "text/event-stream"})

    async def followed(address: str) -> list[int]:
        async with AsyncLedger(address, "elk_test") as ledger:
            calls: list[int] = []
            async for event in ledger.events.follow(MemoryStore()):
                calls.append(event.position)
                if len(calls) == 3:
                    break
            return calls

    others = [PAGE, broken, PAGE._replace(status=404), stream, OTHERS["redirect"], PAGE]
    replies = [page(1), PAGE, *others[:3], page(2), stream, *others[4:], page(3)]
    with StandIn(lambda _: replies.pop(0)).serving() as stand_in:
        assert asyncio.run(followed(stand_in.address)) == [1, 2, 3]
    with (
        StandIn(lambda _: PAGE).serving() as stand_in,
        pytest.raises(UnexpectedAnswer),
    ):
        asyncio.run(followed(stand_in.address))
    assert len(stand_in.requests) == 1


COMMANDS = {
    "login": ("{url}",), "whoami": (), "lines": (), "line": (LINE,), "why": (LINE,),
    "pause": (LINE, "--reason", "Review"), "resume": (LINE,), "runs": (),
    "run": ("show", "RUN-26-000001"), "tail": ("--since", "1h"), "usage": (),
    "changed": ("--since", "1h"), "alerts": (), "ack": ("ALR-26-000001", "ALR-26-000002"),
    "statements": (), "export": ("lines",), "send": ("{file}",), "keys": (),
    "webhooks": ("listen", "--forward-to", "127.0.0.1:9"), "spool": ("{spool}", "--send"),
}  # fmt: skip


def test_each_command_of_elk_tells_it_in_a_line(
    anyone: Elk, stand_in: StandIn, switch: Switch, tmp_path: Any
) -> None:
    assert set(root.commands) - set(COMMANDS) == {"api", "completion", "logout", "mcp", "verify"}
    file, folder = tmp_path / "facts", tmp_path / "spool"
    file.write_text('{"id": "1"}')
    switch.away()
    with Ledger(stand_in.address, "elk_test", spool=folder) as left:
        report(left, 1)
        left.close(0.0)
    elk = anyone.having(ELK_URL=stand_in.address, ELK_TOKEN="elk_test")
    values = {"url": stand_in.address, "file": file, "spool": folder}
    for name in ("page", "cut off", "redirect", "other 404"):
        other = OTHERS[name]
        switch.answer = lambda _, other=other: other  # type: ignore[misc]
        media = "text/html" if other is PAGE else "application/json"
        message = f"has not answered as a ledger does ({other.status}, {media})"
        for command, words in COMMANDS.items():
            if command in ("export", "tail", "webhooks") and name != "page":
                continue
            done = elk(command, *(str(word).format(**values) for word in words), stdin="elk_test")
            assert done.code == 5, (name, command, done)
            assert f"elk: {stand_in.address} {message}: is the address right?\n" in done.err, (
                name,
                command,
                done,
            )
            assert SECRET not in done.err + done.out
    for body in ([], {}, {"data": []}, {"data": {}}, {"data": {"id": 7, "state": []}, "meta": 1}):
        switch.answer = lambda _, body=body: Reply(200, body)  # type: ignore[misc]
        for command, words in COMMANDS.items():
            if command != "export":
                done = elk(command, *(str(w).format(**values) for w in words), stdin="elk_test")
                assert done.code in (0, 5), (body, command, done)


TWO_READERS = """
import threading
import msgspec
from execution_ledger._requests import decoder

is_reading, may_go_on = threading.Event(), threading.Event()

def slow():
    is_reading.set()
    may_go_on.wait()
    return int

class Item(msgspec.Struct):
    number: "slow()"

class Answer(msgspec.Struct):
    data: Item

def read():
    found.append(decoder(Answer).decode(b'{"data": {"number": 1}}').data.number)

found = []
first, second = threading.Thread(target=read), threading.Thread(target=read)
first.start()
is_reading.wait()
second.start()
second.join(0.2)
may_go_on.set()
first.join()
second.join()
print(found)
"""


def test_two_threads_may_read_the_first_answers_of_a_type_at_once() -> None:
    """The second one decoded by a type that msgspec had half read, and the process died."""
    done = subprocess.run(
        [sys.executable, "-c", TWO_READERS], env=ENVIRONMENT, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"[1, 1]\n")
