"""The memory of answers: who is given the same, what a reading costs, and how much is kept."""

import asyncio
import random
import tracemalloc
from itertools import product
from typing import Any

import psycopg
import pytest

from ledger.api.replies import Reply, answer
from ledger.intake.principal import Principal
from ledger.postgres.scope import Planning
from ledger.reads.answers import Answers
from ledger.reads.asking import Reads
from ledger.reads.question import Answer, Question
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.views import until

ANYONE = Principal("KEY", "api_key", frozenset({"read"}), "ORG-26-000001")

POSITION = "SELECT position::text FROM ledger.projection WHERE name = 'execution'"
# The same, seen at once but told only when nobody holds lock 7.
HELD_UP = f"""WITH seen (position) AS MATERIALIZED ({POSITION})
    SELECT position || pg_advisory_xact_lock_shared(7)::text FROM seen"""
HOLDS_UP = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted"
TENANT = """SELECT concat_ws('/', current_setting('ledger.organization_id'),
    current_setting('ledger.workspace_id'), %(word)s::text, %(words)s::text[])"""
BRIEF = "SELECT cardinality(%(words)s::text[]) || left(%(word)s, 1)"


class Asker:
    """Asks for a text; it is counted how often that was read."""

    def __init__(self, edge: Edge, budget: int = 10**6) -> None:
        services = edge.service.app.state.services
        self._door, self.reads = services.door, 0
        self.answers = Answers(services.door.fetch, budget)
        services.positions.on_moved(self.answers.heard)
        # The memory's looks are not counted.
        self._reads = Reads(self._count, services.positions, self.answers, services.clock)

    async def _count(self, *asked: Any) -> list[Any]:
        self.reads += 1
        rows: list[Any] = await self._door.fetch(*asked)
        return rows

    async def ask(self, statement: str, by: Principal = ANYONE, **parameters: Any) -> str:
        question = Question(
            tenant=by.tenant,
            statement=f"SELECT 0, ({statement})",
            parameters=parameters,
            views=frozenset(),
            planning=Planning.SHORT,
            is_kept=True,
        )
        reply = (await self._reads.ask(question)).once(said)
        return bytes(reply.body).decode()


def said(rows: Answer) -> Reply:
    """The text as an answer."""
    return answer(rows[0][1], 0)


async def asking(edge: Edge, **options: Any) -> Asker:
    """One that knows where the views stand: they rest."""
    asker = Asker(edge, **options)
    while asker.reads < 2:
        await asker.ask("SELECT ''")
    asker.reads = 0
    return asker


def test_only_who_asks_the_same_within_the_same_tenant_is_told_the_same(edge: Edge) -> None:
    tenants = [("ORG-26-000001", None), ("ORG-26-000001", "WS-1"), ("ORG-26-000002", "WS-1")]
    people = [Principal("KEY", "api_key", frozenset({"read"}), *tenant) for tenant in tenants]
    words = ([], ["a"], ["a", "b"], ["b", "a"], ["a,b"], ["{a,b}"])
    statements, one_word = (TENANT, TENANT + " || '!'"), ("", "a", "ä")
    questions = list(product(statements, people, one_word, words))

    async def play() -> None:
        asker, forgetful = await asking(edge), Asker(edge, budget=0)
        for statement, by, word, some in random.Random(1).sample(questions * 2, k=216):
            said = await asker.ask(statement, by, word=word, words=some)
            assert said == await forgetful.ask(statement, by, word=word, words=some)
        assert asker.reads == len(questions)
        pair = "SELECT %(one)s::text || %(other)s::text"
        assert await asker.ask(pair, one="a", other="b") == "ab"
        assert await asker.ask(pair, other="a", one="b") == "ba"

    edge.run(play())


def test_many_who_ask_the_same_cost_one_reading_after_each_write(edge: Edge) -> None:
    line = edge.fresh()

    async def play() -> None:
        asker = await asking(edge)
        for reads in (1, 2, 3):
            at_once = await asyncio.gather(*(asker.ask(POSITION) for _ in range(20)))
            assert {*at_once, await asker.ask(POSITION)} == {at_once[0]}
            assert asker.reads == reads
            await edge.service.accept(fact("execution.checked_in", line))

    edge.run(play())


def test_an_answer_that_is_overtaken_while_it_is_read_is_for_its_asker_alone(edge: Edge) -> None:
    """Not for who comes after the write, and never again."""
    write = fact("run.requested", None, {"service_line_id": edge.fresh()})

    async def play() -> None:
        asker = await asking(edge)
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
def test_what_is_kept_takes_no_more_memory_than_its_budget(edge: Edge, letter: str) -> None:
    """Whatever words are asked for."""

    async def play() -> None:
        budget = 2**19
        asker, dice = await asking(edge, budget=budget), random.Random(1)
        tracemalloc.start()
        try:
            for number in range(200):
                words = [f"{number}{letter}" * dice.randint(1, 400) for _ in range(number % 7)]
                await asker.ask(dice.choice([BRIEF, TENANT]), word=letter, words=words)
                assert asker.answers.bytes_kept <= budget
            assert budget * 0.8 < asker.answers.bytes_kept
            assert tracemalloc.get_traced_memory()[0] < budget
        finally:
            tracemalloc.stop()

    edge.run(play())


def test_what_was_given_longest_ago_is_dropped_first_and_nothing_for_what_is_too_large(
    edge: Edge,
) -> None:
    async def play() -> None:
        asker = await asking(edge, budget=2**15)

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
        asker.answers.heard("execution", 10**9)
        assert asker.answers.bytes_kept == 0

    edge.run(play())
