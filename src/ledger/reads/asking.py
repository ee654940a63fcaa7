"""Answers questions: from memory or by PostgreSQL, once the views have the due position."""

import asyncio
from collections.abc import Callable
from datetime import datetime

from msgspec.structs import replace

from ledger.domain.errors import Behind, Invalid, Unavailable
from ledger.postgres.scope import Fetch
from ledger.postgres.session import ANSWER_SECONDS
from ledger.reads.answers import Answers, Turns
from ledger.reads.positions import WAIT_SECONDS, ViewPositions
from ledger.reads.question import Answer, Question
from ledger.views.statements import AWAIT_APPEND, INSTANT

_BREATH_SECONDS = 0.01


class Reads:
    """The reads of one process."""

    def __init__(
        self,
        fetch: Fetch,
        positions: ViewPositions,
        answers: Answers,
        clock: Callable[[], datetime],
    ) -> None:
        self._fetch, self._positions, self._clock = fetch, positions, clock
        self.answers = answers
        self._turns: Turns[Answer] = Turns(self._read_in_turn)

    async def ask(self, question: Question, min_position: int | None = None) -> Answer:
        """Return the rows of a question, which show ``min_position`` at least.

        A crash of the database may take back commits of a view. The read then waits, up to two
        seconds, until the view shows again what it has shown before (``ViewPositions.due``); after
        that it returns the rows as they are. Raises Behind if the views do not reach
        ``min_position`` or the asked instant in time, Unavailable after ``ANSWER_SECONDS``, and
        Invalid for an instant in the future.
        """
        try:
            # A request waits for its turn, for views and for several statements: together no longer
            # than for one statement (contract, Health).
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._ask(question, min_position)
        except TimeoutError as error:
            raise Unavailable("The database does not answer.") from error

    async def _ask(self, question: Question, min_position: int | None) -> Answer:
        self.require_readable(question.read.views)
        if min_position is not None and not await self._reach(question, min_position):
            raise Behind("The views have not reached the asked position.")
        if question.as_of is not None and question.as_of > self._clock():
            question = await self._settle(question)
        least, time = min_position or 0, asyncio.get_running_loop().time
        due, deadline = self._due(question, least), time() + WAIT_SECONDS
        while True:
            if not question.read.is_kept:
                answer = Answer(await self._fetch(*question.asked))
            elif (kept := await self.answers.find(question)) is not None:
                answer = kept
            else:
                answer = await self._turns.take(question.key, question)
            if answer.position >= due and (answer.is_known or question.as_of is None):
                self.require_readable(question.read.views)  # a view may have been rebuilt meanwhile
                return answer
            if question.as_of is not None:
                question = await self._settle(question)
            elif time() < deadline:
                # If the announced positions are high enough already, this does not wait.
                await self._reach(question, due)
                await asyncio.sleep(_BREATH_SECONDS)
            elif due > least:
                due = least
            else:
                raise Behind("The views have not reached the asked position.")

    def require_readable(self, views: frozenset[str]) -> None:
        """Raise Behind if a view was made by another version of the code, and cannot be read."""
        if self._positions.versions.refuse(views):
            raise Behind("Another version of the service has the view: ask another node, or later.")

    async def _read_in_turn(self, question: Question) -> Answer:
        # Most often the previous turn has just kept this answer.
        if (kept := await self.answers.find(question)) is not None:
            return kept
        moves = self.answers.moves
        answer = Answer(await self._fetch(*question.asked))
        self.answers.keep(question, answer, moves)
        return answer

    def _due(self, question: Question, least: int) -> int:
        """The position that the rows must show; 0 for the past: its statement checks by itself."""
        if question.as_of is not None:
            return 0
        views = None if question.read.is_behind_all else question.read.views
        return max(least, self._positions.due(views))

    async def _settle(self, question: Question) -> Question:
        """Wait until every event recorded by the instant is committed and in the views.

        If the instant is near to now, an append may be in flight. A standby has every event by the
        instant once it has a later event or beat. Raises Behind if the views or the standby are
        late, and Invalid for the future.
        """
        as_of = question.as_of
        if as_of is None or question.is_settled:
            raise Behind("The views have not reached the asked instant.")
        fetch, tenant, planning = self._fetch, question.tenant, question.read.planning
        await fetch(tenant, AWAIT_APPEND, {}, planning)
        ((position, known, is_standby),) = await fetch(tenant, INSTANT, {"as_of": as_of}, planning)
        # Under load ``recorded_at`` may be some microseconds ahead of the clock.
        if as_of > self._clock() and (known is None or as_of > known):
            raise Invalid.at("/as_of", "lies in the future")
        if is_standby and (known is None or as_of >= known):
            if not await self._positions.wait_known(as_of):
                raise Behind("The standby does not know yet what was recorded by the instant.")
            ((position, _, _),) = await fetch(tenant, INSTANT, {"as_of": as_of}, planning)
        if not await self._reach(question, position):
            raise Behind("The views have not reached the asked instant.")
        return replace(question, is_settled=True)

    async def _reach(self, question: Question, position: int) -> bool:
        """Wait for the question's views. Return whether they reached the position in time."""
        if question.read.is_behind_all and not await self._positions.wait(position):
            return False
        return await self._positions.wait_for(question.read.views, position)
