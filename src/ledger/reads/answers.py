"""Answers that need not be computed again: between a read and the door.

What a statement answers to its parameters, within a tenant, depends on the views' rows alone, and
these change only together with where their view stands: its position with each batch, its
generation with each swap of a rebuild, in the same transaction. So an answer is kept with where the
views stood, at the latest, before its statement began. It is given again where a *look*, begun
after the request came, finds them standing there still: then no write that was acknowledged before
the request came, by whichever worker, is missing from it.

    read ─▶ kept? ─ no ──────────────────────────▶ door ─▶ finish ─▶ keep, if none moved meanwhile
              └ yes ▶ look ─ they have moved: forget all ▲
                        └ they stand: the kept answer

A miss costs no look: the last look showed, or the projector has told since (``heard``), where the
views stand. What is told may come late, never early; so it can outdate answers at once, which saves
looks under a load of writes, but only a look can confirm one. Many requests share a look, and a
statement for one answer (``turns.py``).

Everything that is kept belongs to one standing of the views: as soon as any of them moves, all is
forgotten. One table beside the views is read too, that of run keys. It changes in the transaction
that appends an event, before any view: a run that is erased while the views are stopped must not
be shown from here. So where the log ends belongs to the standing as well. An answer that depends on
anything else (deliveries, credentials, the clock) must not be asked for here.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from sys import getsizeof
from typing import Any

from ledger.api.door import Door
from ledger.api.replies import Reply
from ledger.application.principal import Principal
from ledger.reads.turns import Turns

_LOG = "log"

# Where every view stands, and where the log ends.
_LOOK = f"""
SELECT name, generation, position FROM ledger.projection
UNION ALL SELECT '{_LOG}', 0, COALESCE(max(notification_id), 0) FROM ledger.ledger_events
"""

_BUDGET = 24 * 1024 * 1024
"""Bytes that a process keeps."""

_OVERHEAD = 1500
"""Bytes that an answer takes beside its body and its key's words; an upper guess."""

_Key = tuple[Any, ...]
_Standing = dict[str, tuple[int, int]]
"""view, or the log → (generation, position)."""

Finish = Callable[[Sequence[Any]], Reply | None]
"""Makes the answer of the rows; None where they do not tell it yet. What it uses beside the rows
must be in the statement and the parameters: whoever asks the same is given the same answer."""


class Answers:
    """One process's kept answers, those given longest ago dropped first."""

    def __init__(self, door: Door, budget: int = _BUDGET) -> None:
        self._door = door
        self._budget = budget
        self._kept: OrderedDict[_Key, tuple[Reply, int]] = OrderedDict()
        self._bytes = 0
        self._standing: _Standing = {}
        self._moves = 0
        """How often we learnt that a view has moved: an answer is of the time between two."""
        self._looks: Turns[None] = Turns()
        self._asked: Turns[Reply | None] = Turns()

    @property
    def bytes_kept(self) -> int:
        """How much is kept, as far as it is counted."""
        return self._bytes

    async def find(
        self,
        principal: Principal,
        statement: str,
        parameters: Mapping[str, Any],
        finish: Finish,
        *,
        long: bool = False,
        by_values: bool = False,
    ) -> Reply | None:
        """The answer as of now or later. Raises what the door or ``finish`` raises."""
        key = _key(principal, statement, parameters)
        if key in self._kept and (reply := await self._confirmed(key)) is not None:
            return reply
        fetch = partial(
            self._door.fetch, principal, statement, parameters, long=long, by_values=by_values
        )
        ask = partial(self._ask, key, fetch, finish)
        return await self._asked.take(key, ask)

    def heard(self, view: str, position: int) -> None:
        """A view is told to have moved on to a position, some time ago."""
        generation, known = self._standing.get(view, (0, 0))
        if position > known:
            end = max(position, self._standing.get(_LOG, (0, 0))[1])
            self._move({**self._standing, view: (generation, position), _LOG: (0, end)})

    def forget(self) -> None:
        """Drop what is kept, as where a run was erased: memory holds it no longer than need be."""
        self._move(self._standing)

    async def _confirmed(self, key: _Key) -> Reply | None:
        """What is kept under a key, if it is still true."""
        await self._looks.take(None, self._look)
        if (found := self._kept.get(key)) is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    async def _look(self) -> None:
        rows = await self._door.fetch(None, _LOOK, {})
        standing = {name: (generation, position) for name, generation, position in rows}
        # Where it shows less than we have heard meanwhile, what is kept now is younger than it; we
        # forget it all the same: the next look will show what we heard.
        if standing != self._standing:
            self._move(standing)

    def _move(self, standing: _Standing) -> None:
        self._standing = standing
        self._moves += 1
        self._kept.clear()
        self._bytes = 0

    async def _ask(
        self, key: _Key, fetch: Callable[[], Awaitable[Sequence[Any]]], finish: Finish
    ) -> Reply | None:
        # Who waited for this turn finds, most often, what the turn before has kept.
        if key in self._kept and (reply := await self._confirmed(key)) is not None:
            return reply
        moves = self._moves
        reply = finish(await fetch())
        if reply is not None and moves == self._moves:
            self._keep(key, reply)
        return reply

    def _keep(self, key: _Key, reply: Reply) -> None:
        size = len(reply.body) + _size(key)
        if size > self._budget // 8:
            return
        while self._bytes + size > self._budget:
            _, (_, dropped) = self._kept.popitem(last=False)
            self._bytes -= dropped
        self._kept[key] = reply, size
        self._bytes += size


def _key(principal: Principal, statement: str, parameters: Mapping[str, Any]) -> _Key:
    """All that an answer depends on, but for the views: the tenant, what is asked, and for what."""
    values = [tuple(v) if isinstance(v, list) else v for v in parameters.values()]
    return (
        principal.organization_id,
        principal.workspace_id,
        principal.is_admin,
        statement,
        *parameters,
        *values,
    )


def _size(key: _Key) -> int:
    """Bytes that an answer takes beside its body: its parameters are whatever a client sends."""
    words = key[4:]
    items = sum(sum(map(getsizeof, word)) for word in words if isinstance(word, tuple))
    return _OVERHEAD + sum(map(getsizeof, words)) + items
