"""The cache of answers: a cached answer equals what the views' rows would have given then.

Two workers serve one database. ``other`` gets no notifications of the projector. So only a check of
the views' tracking shows it that a view has moved.
"""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from ledger.app.composition.api import create_api
from ledger.app.settings import Settings
from ledger.engine.reads.answers import Answers, Reads
from tests.support.data_dirs import MASTER_KEY
from tests.support.edge import Edge, edge_of
from tests.support.facts import fact
from tests.support.rebuilding import rebuild, view
from tests.support.service import Clock, Service
from tests.support.soak import repeated
from tests.support.time_travel import Question as Asking
from tests.support.time_travel import Questions, World, answer_of, as_of
from tests.support.views import query, until

SETTINGS = Settings(master_key=MASTER_KEY, idle_sweep_seconds=3600)


def deaf_reads(services: Any, **options: Any) -> Reads:
    """Reads with a cache that learns of erasures, but gets no notifications of the views."""
    answers = Answers(services.pool.fetch, **options)
    services.positions.on_erased(answers.forget)
    return Reads(services.pool.fetch, services.positions, answers, services.clock)


@contextmanager
def second_worker(edge: Edge, **options: Any) -> Iterator[Edge]:
    """A second worker for the same clients, whose cache gets no notifications of the views."""
    app = create_api(SETTINGS, edge.conninfo, edge.clock)
    app.state.services.reads = deaf_reads(app.state.services, **options)
    with edge.second_worker(app) as worker:
        yield worker


@pytest.fixture(scope="module")
def other(edge: Edge) -> Iterator[Edge]:
    """The worker whose cache gets no notifications."""
    with second_worker(edge) as other:
        yield other


@pytest.fixture
def alone(conninfo: str) -> Iterator[Edge]:
    """A service whose database a test may damage."""
    with edge_of(SETTINGS, conninfo) as edge:
        yield edge


def with_run(edge: Edge) -> tuple[str, str]:
    """A new line with a run that has an input."""
    line = edge.fresh(project_tags=["before"])
    started = {"service_line_id": line, "input": {"said": "secret"}}
    (begun,) = edge.accept(fact("run.started", None, started))
    return line, begun["subject"]


def cached_reads(line: str, run: str) -> list[str]:
    """The path of every read whose answers are kept."""
    return [
        "/v1/execution?project_tag=before,after",
        "/v1/execution/summary?project_tag=after",
        f"/v1/execution/{line}",
        f"/v1/execution/{line}/runs?status=running,completed",
        f"/v1/runs/{run}",
    ]


# Kept answers.


def test_a_cached_answer_is_sent_again_without_reading_the_rows(edge: Edge, other: Edge) -> None:
    paths = cached_reads(*with_run(edge))
    for worker in (edge, other):
        first = [answer_of(worker.get(path)) for path in paths]
        assert [answer_of(worker.get(path)) for path in paths] == first
        with psycopg.connect(edge.conninfo) as connection:
            views = "ledger.execution, ledger.execution_count, ledger.run, ledger.run_payload"
            connection.execute(f"LOCK TABLE {views} IN ACCESS EXCLUSIVE MODE".encode())
            assert [answer_of(worker.get(path)) for path in paths] == first


def test_a_write_that_another_worker_acknowledged_is_shown(edge: Edge, other: Edge) -> None:
    """A client that sends the entity tag of the earlier answer sees the write too."""
    for reader, writer in ((other, edge), (edge, other)):
        line, run = with_run(writer)
        paths = cached_reads(line, run)
        before = [reader.get(path) for path in paths * 3][-len(paths) :]
        items = writer.accept(
            fact("service_line.updated", line, {"project_tags": ["after"]}),
            fact("run.completed", run, {"output": 1}),
        )
        for path, old in zip(paths, before, strict=True):
            tag = old.headers.get("etag", '"none"')
            new = reader.get(path, headers={"if-none-match": tag})
            assert (new.status_code, new.content == old.content) == (200, False)
            assert new.headers.get("etag") != tag
            assert int(new.headers["ledger-position"]) >= items[-1]["position"]
            cached = reader.get(path, headers={"if-none-match": new.headers.get("etag", "*")})
            assert cached.status_code == (304 if "etag" in new.headers else 200)
            assert cached.headers["ledger-position"] == new.headers["ledger-position"]


def test_headers_of_one_request_do_not_appear_on_a_later_cached_answer(edge: Edge) -> None:
    path = f"/v1/execution/{edge.fresh()}"
    names = [name for name, _ in edge.get(path).headers.multi_items()]
    for number in range(3):
        cached = edge.get(path, headers={"if-none-match": edge.get(path).headers["etag"]})
        assert (cached.status_code, edge.request("HEAD", path).status_code) == (304, 200)
        answer = edge.get(path, headers={"x-request-id": f"mine-{number}"})
        assert (answer.status_code, answer.headers["x-request-id"]) == (200, f"mine-{number}")
        assert [name for name, _ in answer.headers.multi_items()] == names
    key = {"idempotency-key": path}
    for _ in range(2):
        replayed = edge.post(f"{path}/pause", json={"reason": "r"}, headers=key)
    assert replayed.headers["idempotency-replayed"] == "true"
    answer = edge.get(path)
    assert answer.json() == replayed.json()
    assert [name for name, _ in answer.headers.multi_items()] == names


# Random work and random questions, for three workers.


@pytest.mark.parametrize(("seed", "rounds"), repeated([(1, 6), (1, 24), (2, 24)]))
def test_workers_with_and_without_cached_answers_answer_the_same(
    conninfo: str, seed: int, rounds: int
) -> None:
    begin = datetime(2026, 12, 30, 21, 0, tzinfo=UTC)
    with (
        edge_of(SETTINGS, conninfo, Clock(begin)) as first,
        second_worker(first) as deaf,
        second_worker(first, budget=0) as forgetful,
    ):
        world, dice = World(first, seed), random.Random(seed)
        asker, earlier, bodies = Questions(world), list[Asking](), dict[str | None, bytes]()
        for _ in range(rounds):
            world.edge = dice.choice([first, deaf])
            world.work()
            for question in [*asker.draw(6), *dice.sample(earlier, min(len(earlier), 12))]:
                earlier.append(question)
                params: dict[str, Any] = dict(question.params)
                if dice.random() < 0.2:
                    params |= as_of(world.edge.clock.now)
                workers = [forgetful, *dice.sample([first, first, deaf, deaf], 3)]
                headers = {"x-request-id": "same", "ledger-min-position": str(world.head)}
                token = world.tokens[question.by]
                options = {"params": params, "headers": headers}
                answers = [answer_of(w.get(question.path, token, **options)) for w in workers]
                assert answers == answers[:1] * 4, question
                tag, body = answers[0].tag, answers[0].body
                assert tag is None or bodies.setdefault(tag, body) == body
                asker.follow_up(question, answers[0])
            if dice.random() < 0.7:
                world.move()


def test_every_read_shows_the_writes_acknowledged_before_it_began(edge: Edge, other: Edge) -> None:
    lines = [edge.fresh() for _ in range(3)]
    acknowledged = dict.fromkeys(lines, 0)
    workers = (edge.service, other.service)
    done, observed = asyncio.Event(), list[tuple[int, int]]()

    async def write(worker: Service, dice: random.Random) -> None:
        for _ in range(20):
            line = dice.choice(lines)
            await worker.accept(fact("run.requested", None, {"service_line_id": line}))
            acknowledged[line] += 1

    async def read(worker: Service, dice: random.Random) -> None:
        while not done.is_set():
            line = dice.choice(lines)
            least = acknowledged[line]
            observed.append((least, (await worker.line(line))["open_runs"]))

    async def play() -> None:
        reading = [read(worker, random.Random(n)) for n, worker in enumerate(workers * 4)]
        readers = [asyncio.create_task(coroutine) for coroutine in reading]
        await asyncio.gather(*(write(worker, random.Random(n)) for n, worker in enumerate(workers)))
        done.set()
        await asyncio.gather(*readers)

    edge.run(play())
    assert len(observed) > 50
    assert [(least, position) for least, position in observed if position < least] == []


# Changes of the views' tracking.


def tag_of(edge: Edge, line: str) -> str:
    """The only project tag of a line, as the worker shows it."""
    return str(*edge.data(f"/v1/execution/{line}")["project_tags"])


TRACKING_CHANGES = {
    "restored to an earlier position": "UPDATE ledger.projection SET position = position - 1",
    "one view restored": "UPDATE ledger.projection SET position = 0 WHERE name = 'execution'",
    "gone": "DELETE FROM ledger.projection WHERE name = 'webhook'",
    "new": "INSERT INTO ledger.projection VALUES ('another', 1, 1, 0)",
}
NOTIFY = "SELECT pg_notify('ledger_views', name || ' ' || position) FROM ledger.projection"


def test_no_cached_answer_outlives_a_change_of_the_views_tracking(alone: Edge) -> None:
    line = alone.fresh(project_tags=["word-0"])
    alone.service.loops.projector.stop()
    with second_worker(alone) as deaf:
        for number, (change, statement) in enumerate(TRACKING_CHANGES.items()):
            for worker in (alone, deaf, alone, deaf):
                assert tag_of(worker, line) == f"word-{number}"
            rows = f"head = replace(head, 'word-{number}', 'word-{number + 1}')"
            with psycopg.connect(alone.conninfo) as connection:
                changes = f"{statement}; UPDATE ledger.execution SET {rows}; {NOTIFY}"
                connection.execute(changes.encode())
            for worker in (alone, deaf):
                assert tag_of(worker, line) == f"word-{number + 1}", change


def test_no_cached_answer_outlives_the_swap_of_a_rebuild(alone: Edge) -> None:
    line = alone.fresh(project_tags=["right"])
    with second_worker(alone) as deaf:
        query(alone.conninfo, "UPDATE ledger.execution SET head = replace(head, 'right', 'wrong')")
        for worker in (alone, deaf, alone, deaf):
            assert tag_of(worker, line) == "wrong"
        rebuild(alone.conninfo, view("execution"))
        for worker in (alone, deaf):
            assert tag_of(worker, line) == "right"


def test_no_worker_shows_a_run_that_was_erased_while_the_views_stood_still(alone: Edge) -> None:
    """The erasure is answered after 2 s, although the views have not folded it."""
    line, run = with_run(alone)
    alone.accept(fact("run.cancelled", run))
    paths = [f"/v1/runs/{run}", f"/v1/execution/{line}/runs"]
    with second_worker(alone) as deaf:
        alone.service.loops.projector.stop()
        assert all("secret" in w.get(path).text for w in (alone, deaf) * 2 for path in paths)
        erased = alone.post(f"/v1/runs/{run}/erase", json={"reason": "-"}).json()["data"]
        assert (erased["input"], bool(erased["erased_at"])) == (None, True)
        memory = deaf.service.app.state.services.reads.answers
        until(lambda: not memory.cached_bytes, "an empty memory")
        answers = [worker.data(path) for worker in (alone, deaf) for path in paths]
        assert answers == [erased, [erased]] * 2
