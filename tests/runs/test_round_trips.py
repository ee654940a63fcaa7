"""The round trips of an append, counted on their way to PostgreSQL."""

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ledger.app.settings import Settings
from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.writer import fair_queue
from ledger.engine.writer.request import IdempotencyKey
from ledger.features.keys.commands import CreateApiKey
from tests.support.facts import ORGANIZATION, activation, fact
from tests.support.ledger import Item, Ledger, new_id, working
from tests.support.relay import Relay

LINE = "LIN-26-000001"


class Distant:
    """A ledger behind a relay, whose writer is connected and knows a line."""

    def __init__(self, ledger: Ledger, relay: Relay) -> None:
        self.ledger, self._relay = ledger, relay
        ledger.accept(activation(LINE, execution_id="RUN-26-500000"))

    def round_trips(self, write: Callable[[], list[Item]]) -> int:
        """The round trips of an append by which all is recorded."""
        before = self._relay.syncs
        assert {item.outcome for item in write()} == {"recorded"}
        return self._relay.syncs - before

    def report(self, *events: dict[str, Any]) -> int:
        """The round trips of an append of facts."""
        return self.round_trips(lambda: self.ledger.report(*events))


@pytest.fixture
def distant(
    conninfo: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Distant]:
    # A process apart asks in the midst of a long append whether another one waits.
    monkeypatch.setattr(fair_queue, "SLOT_SECONDS", math.inf)
    with (
        closing(Relay(conninfo, tmp_path)) as relay,
        working(relay.conninfo, settings) as ledger,
    ):
        yield Distant(ledger, relay)


def start(subject: str | None = None) -> dict[str, Any]:
    return fact("run.started", subject, {"service_line_id": LINE})


def test_an_append_takes_two_round_trips_whoever_gives_the_ids(distant: Distant) -> None:
    assert distant.report(fact("execution.checked_in", LINE)) == 2
    assert distant.report(start(new_id("RUN"))) == 2
    assert distant.report(start()) == 2
    assert distant.report(activation(new_id("LIN"))) == 2


def test_a_batch_takes_as_many_round_trips_as_a_single_fact(distant: Distant) -> None:
    batch = [start() for _ in range(500)] + [start(new_id("RUN")) for _ in range(100)]
    batch += [activation(new_id("LIN")) for _ in range(100)]
    assert distant.report(*batch, fact("execution.checked_in", LINE)) == 2


def test_a_key_with_an_idempotency_key_takes_two_round_trips(distant: Distant) -> None:
    key = IdempotencyKey(COMMAND_LINE.id, "/v1/keys", "k", bytes(32))
    command = CreateApiKey(
        COMMAND_LINE,
        "a token",
        name=None,
        organization_id=ORGANIZATION,
        workspace_id=None,
        permissions=("read",),
        idempotency=key,
    )
    assert distant.round_trips(lambda: [distant.ledger.execute(command)]) == 2


def test_many_used_ids_in_a_row_take_one_more_round_trip(distant: Distant) -> None:
    begun = [start(f"RUN-26-{number:06d}") for number in range(2, 18)]
    assert distant.report(*begun[1:]) == 2
    assert distant.report(start()) == 2
    assert distant.report(begun[0], start()) == 3
