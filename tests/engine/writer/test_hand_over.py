"""Workers hand their commands over to the writer's process, and get the outcomes back."""

import asyncio
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import wraps
from typing import Any

import pytest

from ledger.engine.log.event_log import Log
from ledger.engine.log.vault import Vault
from ledger.engine.values import errors
from ledger.engine.values.principal import Principal
from ledger.engine.writer import fair_queue, hand_over
from ledger.engine.writer.command import Command, OwnCommand
from ledger.engine.writer.group import Group
from ledger.engine.writer.hand_over import HostedWriter, Post, RemoteWriter
from ledger.engine.writer.request import Outcome, Receipt
from ledger.features.facts.report import command_of
from tests.support.facts import LINE, activation, fact
from tests.support.racing_writers import now, parsed, principal

A_FACTS = principal("a")
B_FACTS = Principal("b", "api_key", frozenset({"read", "write"}), "ORG-26-000002")
B_LINE = "LIN-26-200001"


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*values: Any, **named: Any) -> None:
        asyncio.run(test(*values, **named))

    return run


@pytest.fixture
def post() -> Iterator[Post]:
    post = Post()
    yield post
    post.close()


def hosted(post: Post, conninfo: str) -> HostedWriter:
    hour = timedelta(hours=1)
    return HostedWriter(post, Log(conninfo), Vault(bytes(32)), now, lambda _: hour, is_apart=False)


def check_ins(count: int, line: str = LINE) -> list[Command]:
    by = A_FACTS if line == LINE else B_FACTS
    events = (fact("execution.checked_in", line, {"hours": 1}) for _ in range(count))
    return [command_of(parsed(event), by) for event in events]


def lines() -> list[Command]:
    other = activation(B_LINE, organization_id="ORG-26-000002")
    return [command_of(parsed(activation()), A_FACTS), command_of(parsed(other), B_FACTS)]


def outcomes(worker: RemoteWriter, commands: Sequence[Command]) -> "asyncio.Future[list[Outcome]]":
    future = asyncio.get_running_loop().create_future()
    worker.hand_in(commands, future.set_result)
    return future


async def connected(worker: RemoteWriter) -> None:
    while worker._transport is None:
        await asyncio.sleep(0)


@asynccontextmanager
async def workers(post: Post, count: int = 1) -> AsyncIterator[Sequence[RemoteWriter]]:
    opened = [RemoteWriter(post) for _ in range(count)]
    for worker in opened:
        await worker.open()
    try:
        yield opened
    finally:
        for worker in opened:
            await asyncio.wait_for(worker.close(), 20)


@asynccontextmanager
async def running(writer: HostedWriter) -> AsyncIterator[None]:
    writer.start()
    try:
        yield
    finally:
        await asyncio.to_thread(writer.stop)


def positions(found: Iterable[Outcome]) -> list[int]:
    receipts = [each for each in found if isinstance(each, Receipt)]
    return [each.position for each in receipts]


@on_a_loop
async def test_each_worker_gets_the_outcomes_of_its_commands_in_their_order(
    post: Post, conninfo: str
) -> None:
    async with running(hosted(post, conninfo)), workers(post, 2) as (one, two):
        assert positions(await outcomes(one, lines())) == [1, 2]
        missing = command_of(parsed(fact("execution.checked_in", "LIN-26-404404", {})), A_FACTS)
        first, second = outcomes(one, check_ins(300)), outcomes(two, [*check_ins(5), missing])
        receipts = positions(await first)
        assert receipts == sorted(receipts)
        assert len(receipts) == 300
        *found, refusal = await second
        assert len(positions(found)) == 5
        assert isinstance(refusal, errors.NotFound)
        assert (refusal.detail, refusal.position) == ("No such service line.", 308)


@on_a_loop
async def test_what_a_lost_writer_was_given_has_an_unknown_outcome_and_the_next_one_decides_it(
    post: Post, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hand_over, "_WORKERS_SECONDS", 0.0)  # the worker outlives it here
    async with workers(post) as (worker,):
        elsewhere = asyncio.Event()
        worker.on_elsewhere = elsewhere.set
        commands = lines()
        future = outcomes(worker, commands)
        (end,) = post.accept()
        end.close()
        found = await future
        assert [type(each) for each in found] == [errors.Unavailable] * 2
        await elsewhere.wait()
        assert worker.failing_seconds() > 0
        await connected(worker)
        async with running(hosted(post, conninfo)):
            assert positions(await outcomes(worker, commands)) == [1, 2]
            assert worker.failing_seconds() == 0
            repeated = await outcomes(worker, commands)
            assert [isinstance(r, Receipt) and r.duplicate for r in repeated] == [True, True]


@on_a_loop
async def test_an_organization_may_have_only_so_many_waiting_commands(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hand_over, "WAITING", 3)
    async with workers(post) as (worker,):
        waiting = outcomes(worker, check_ins(3))
        with pytest.raises(errors.RateLimited):
            worker.hand_in(check_ins(1), lambda _: None)
        other = outcomes(worker, check_ins(1, B_LINE))
        (end,) = post.accept()
        end.close()
        assert len(await waiting) == 3
        await other
        await connected(worker)
        # What was answered waits no longer.
        outcomes(worker, check_ins(3))
        for end in post.accept():
            end.close()


hooks: list[Callable[[], object]] = []


class Calls(OwnCommand):
    """A command that calls the hooks while it is decided, and changes nothing."""

    def __init__(self) -> None:
        super().__init__(A_FACTS)

    def decide(self, group: Group) -> Receipt:
        for hook in hooks:
            hook()
        return Receipt(LINE, (), 0)


@on_a_loop
async def test_a_slot_ends_for_a_fact_that_another_worker_hands_over_meanwhile(
    post: Post, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    async with running(hosted(post, conninfo)), workers(post, 2) as (one, two):
        await outcomes(one, lines())
        came: list[asyncio.Future[list[Outcome]]] = []
        sent = threading.Event()

        def hand_in() -> None:
            came.append(outcomes(two, check_ins(1, B_LINE)))
            loop.call_soon(sent.set)

        hooks[:] = [lambda: (loop.call_soon_threadsafe(hand_in), sent.wait(20))]
        # B's activation was a moment ago, but A counts as alone.
        monkeypatch.setattr(fair_queue, "_RECENT_SECONDS", 0.0)
        batch = check_ins(1_000)
        batch[150] = Calls()
        of_batch = positions(await outcomes(one, batch))
        (at,) = positions(await came[0])
        assert len([position for position in of_batch if 0 < position < at]) < 300


@on_a_loop
async def test_the_writer_listens_while_a_worker_does(post: Post, conninfo: str) -> None:
    writer = hosted(post, conninfo)
    async with running(writer):
        assert not writer._listens
        async with workers(post, 2) as (one, two):
            await outcomes(one, lines())
            await outcomes(two, check_ins(1))
            assert writer._listens
            one.stop_listening()
            await outcomes(one, check_ins(1))
            assert writer._listens
            two.stop_listening()
            await outcomes(two, check_ins(1))
            assert not writer._listens


@on_a_loop
async def test_workers_learn_of_another_server_without_an_outcome(
    post: Post, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = hosted(post, conninfo)
    # As if each probe, on the writer's own thread, had found another server.
    monkeypatch.setattr(writer, "_probe_seconds", 0.05)
    monkeypatch.setattr(writer, "_probe", lambda: writer.on_elsewhere())
    async with running(writer), workers(post) as (worker,):
        elsewhere = asyncio.Event()
        worker.on_elsewhere = elsewhere.set
        await asyncio.wait_for(elsewhere.wait(), 20)


@on_a_loop
async def test_other_threads_submit_through_the_loop(post: Post, conninfo: str) -> None:
    async with running(hosted(post, conninfo)), workers(post) as (worker,):
        future = await asyncio.to_thread(worker.submit, lines())
        assert positions(await asyncio.wrap_future(future)) == [1, 2]


def kinds(base: type[errors.LedgerError]) -> Iterable[type[errors.LedgerError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)


@pytest.mark.parametrize("kind", sorted(set(kinds(errors.LedgerError)), key=lambda k: k.__name__))
def test_every_refusal_keeps_its_facts_on_the_way(kind: type[errors.LedgerError]) -> None:
    error = kind.__new__(kind, "a sentence")
    error.__dict__.update(detail="a sentence", position=7, errors=(("/a", "is b"),))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.args, copy.__dict__) == (error.args, error.__dict__)
