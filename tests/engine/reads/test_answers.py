"""The memory of answers: which questions share an answer, its number of reads, its size."""

import asyncio
import random
import tracemalloc
from datetime import UTC, datetime
from itertools import product
from typing import Any

import psycopg
import pytest

from ledger.engine.http.replies import Reply, answer
from ledger.engine.reads.answers import Answers, Reads
from ledger.engine.reads.question import Answer, Question
from ledger.engine.values.principal import Principal
from ledger.engine.views.statements import read_of
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.views import head, until

ANYONE = Principal("KEY", "api_key", frozenset({"read"}), "ORG-26-000001")

POSITION = "SELECT position::text FROM ledger.projection WHERE name = 'execution'"
# The same position: the statement reads it at once, and returns it when lock 7 is free.
HELD_UP = f"""WITH seen (position) AS MATERIALIZED ({POSITION})
    SELECT position || pg_advisory_xact_lock_shared(7)::text FROM seen"""
HOLDS_UP = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted"
TENANT = """SELECT concat_ws('/', current_setting('ledger.organization_id'),
    current_setting('ledger.workspace_id'), %(word)s::text, %(words)s::text[])"""
BRIEF = "SELECT cardinality(%(words)s::text[]) || left(%(word)s, 1)"


class Asker:
    """Asks for texts through the memory, and counts the statements that are read."""

    def __init__(self, edge: Edge, budget: int = 10**6) -> None:
        services = edge.service.app.state.services
        self._pool, self.reads = services.pool, 0
        self.answers = Answers(services.pool.fetch, budget)
        services.positions.on_moved(self.answers.on_moved)
        # The memory's own reads of the views' positions are not counted.
        self._reads = Reads(self._count, services.positions, self.answers, services.clock)

    async def _count(self, *arguments: Any) -> list[Any]:
        self.reads += 1
        rows: list[Any] = await self._pool.fetch(*arguments)
        return rows

    async def ask(self, statement: str, by: Principal = ANYONE, **parameters: Any) -> str:
        question = Question(
            tenant=by.tenant,
            read=read_of(f"SELECT 0, ({statement})", is_pure=True),
            parameters=parameters,
        )
        reply = (await self._reads.ask(question)).once(text_reply)
        return bytes(reply.body).decode()


def text_reply(rows: Answer) -> Reply:
    """A reply with the text that was read."""
    return answer(rows[0][1], 0)


async def new_asker(edge: Edge, **options: Any) -> Asker:
    """An asker that knows the positions of the views, which do not move."""
    # The key of this edge is an event too: the views must have folded it, and said so.
    assert await edge.service.app.state.services.positions.wait(head(edge.conninfo))
    asker = Asker(edge, **options)
    while asker.reads < 2:
        await asker.ask("SELECT ''")
    asker.reads = 0
    return asker


def test_only_equal_questions_of_the_same_tenant_share_an_answer(edge: Edge) -> None:
    tenants = [("ORG-26-000001", None), ("ORG-26-000001", "WS-1"), ("ORG-26-000002", "WS-1")]
    people = [Principal("KEY", "api_key", frozenset({"read"}), *tenant) for tenant in tenants]
    words = ([], ["a"], ["a", "b"], ["b", "a"], ["a,b"], ["{a,b}"])
    statements, one_word = (TENANT, TENANT + " || '!'"), ("", "a", "ä")
    questions = list(product(statements, people, one_word, words))

    async def play() -> None:
        asker, forgetful = await new_asker(edge), Asker(edge, budget=0)
        for statement, by, word, some in random.Random(1).sample(questions * 2, k=216):
            text = await asker.ask(statement, by, word=word, words=some)
            assert text == await forgetful.ask(statement, by, word=word, words=some)
        assert asker.reads == len(questions)
        pair = "SELECT %(one)s::text || %(other)s::text"
        assert await asker.ask(pair, one="a", other="b") == "ab"
        assert await asker.ask(pair, other="a", one="b") == "ba"

    edge.run(play())


def test_many_equal_questions_cost_one_read_after_each_write(edge: Edge) -> None:
    line = edge.fresh()

    async def play() -> None:
        asker = await new_asker(edge)
        for reads in (1, 2, 3):
            at_once = await asyncio.gather(*(asker.ask(POSITION) for _ in range(20)))
            assert {*at_once, await asker.ask(POSITION)} == {at_once[0]}
            assert asker.reads == reads
            await edge.service.accept(fact("execution.checked_in", line))

    edge.run(play())


def test_an_answer_overtaken_by_a_write_during_its_read_goes_to_no_later_question(
    edge: Edge,
) -> None:
    """Neither a question just after the write nor any later question gets that answer."""
    write = fact("run.requested", None, {"service_line_id": edge.fresh()})

    async def play() -> None:
        asker = await new_asker(edge)
        with psycopg.connect(edge.conninfo) as connection:
            connection.execute("SELECT pg_advisory_lock(7)")
            first = asyncio.create_task(asker.ask(HELD_UP))
            await asyncio.to_thread(until, lambda: edge.select(HOLDS_UP), "the reading")
            (item,) = await edge.service.accept(write)
            second = asyncio.create_task(asker.ask(HELD_UP))
        assert int(await first) < item["position"] == int(await second)
        assert int(await asker.ask(HELD_UP)) == item["position"]

    edge.run(play())


@pytest.mark.parametrize("letter", ["a", "語", "\U0001f600"])
def test_cached_answers_take_no_more_memory_than_their_budget(edge: Edge, letter: str) -> None:
    """The budget holds for parameters of any length and any alphabet."""

    async def play() -> None:
        budget = 2**19
        asker, dice = await new_asker(edge, budget=budget), random.Random(1)
        tracemalloc.start()
        try:
            for number in range(200):
                words = [f"{number}{letter}" * dice.randint(1, 400) for _ in range(number % 7)]
                await asker.ask(dice.choice([BRIEF, TENANT]), word=letter, words=words)
                assert asker.answers.cached_bytes <= budget
            assert budget * 0.8 < asker.answers.cached_bytes
            assert tracemalloc.get_traced_memory()[0] < budget
        finally:
            tracemalloc.stop()

    edge.run(play())


def test_the_least_recently_used_answer_is_dropped_first_and_none_for_an_oversized_one(
    edge: Edge,
) -> None:
    async def play() -> None:
        asker = await new_asker(edge, budget=2**15)

        async def reads(word: str, letters: int) -> int:
            before = asker.reads
            await asker.ask(BRIEF, word=word * letters, words=[])
            return asker.reads - before

        assert [await reads(word, 2000) for word in "abcdefg"] == [1] * 7
        for word in "hijklmnop":
            assert (await reads("a", 2000), await reads(word, 2000)) == (0, 1)
        assert await reads("b", 2000) == 1
        assert [await reads("z", 2**13) for _ in range(2)] == [1, 1]
        assert [await reads(word, 2000) for word in "apb"] == [0, 0, 0]
        asker.answers.on_moved(["execution"], 10**9)
        assert asker.answers.cached_bytes == 0

    edge.run(play())


def test_an_instant_that_is_not_known_yet_is_requested_again() -> None:
    """A standby knows the instant a moment later, although no view has moved meanwhile."""

    async def nothing(*_: Any) -> list[Any]:
        return []

    answers = Answers(nothing)
    question = Question(
        tenant=ANYONE.tenant,
        read=read_of("SELECT %(as_of)s", "execution", is_pure=True),
        parameters={},
        as_of=datetime(2026, 1, 1, tzinfo=UTC),
        is_settled=True,
    )
    answers.keep(question, Answer([(None,)]), answers.moves)
    assert answers.cached_bytes == 0
    answers.keep(question, Answer([(0,)]), answers.moves)
    assert answers.cached_bytes > 0
