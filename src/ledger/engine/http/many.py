"""A request about many things: a command for each, in turns.

A command of the whole request checks it, and keeps an instant under its idempotency key. The
commands of the things have keys of their own, so a request that is sent again goes on: the commands
that were carried out before are replayed.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from ledger.engine.http.reading import Asking
from ledger.engine.http.services import last_position
from ledger.engine.values.errors import Refused, Unavailable
from ledger.engine.values.values import format_instant
from ledger.engine.writer.command import Command
from ledger.engine.writer.request import IdempotencyKey, Receipt
from ledger.engine.writer.turns import TURN_FACTS


def own_key(key: IdempotencyKey | None, thing: str, at: datetime) -> IdempotencyKey | None:
    """The key of a thing's own command. The instant tells apart two uses of an expired key."""
    if key is None:
        return None
    return msgspec.structs.replace(key, path=f"{key.path}/{thing}/{format_instant(at)}")


async def carry_out(asking: Asking, commands: Sequence[Command]) -> list[Receipt | Refused]:
    """The outcomes of the commands, as soon as the views show them.

    Each append takes one turn's commands at most, so no other organization waits for all of them.
    Raises Unavailable if a command was not carried out.
    """
    decided = list[Receipt | Refused]()
    for start in range(0, len(commands), TURN_FACTS):
        some = commands[start : start + TURN_FACTS]
        for outcome in await asking.services.submissions.submit(some, for_views=False):
            if isinstance(outcome, Unavailable):
                raise outcome
            decided.append(outcome)
    await asking.services.positions.wait(last_position(decided))
    state = asking.request.state
    receipts = [each for each in decided if isinstance(each, Receipt)]
    state.receipt = max(receipts, key=lambda each: each.position, default=None)
    state.replayed = state.replayed and all(outcome.replayed for outcome in decided)
    return decided
