"""The passing of time for leases: a set clock moves while the service notes that it listens."""

from datetime import timedelta

from ledger.engine.log.event_log import Log
from tests.support.service import Clock


def listen(log: Log, clock: Clock, seconds: float = 0.0) -> None:
    """Let time pass, and note each second, as an API's writer does, that heartbeats are taken."""
    until = clock.now + timedelta(seconds=seconds)
    while True:
        with log.append_transaction() as append:
            append.beat(clock.now, listens=True)
        if clock.now >= until:
            return
        clock.now = min(until, clock.now + timedelta(seconds=1))
