"""The order of the durations: each is compared with those that it must be shorter than."""

import pytest

from ledger.engine.postgres import timing

IN_10_S = 10.0
"""A living node answers within these seconds (contract, Several nodes)."""

DEAD_IN, FROZEN_IN = 3.0, 15.0
"""Another node leads within these seconds, by the contract."""

ORDER = {
    "CONNECT_SECONDS < ANSWER_SECONDS": "a request fails by its connection, not by its patience",
    "LOCK_SECONDS < FAILING_SECONDS": "an append that waits for its turn has not failed",
    "HELD_SECONDS < FROZEN_SECONDS": "its transactions end before a frozen node's leads",
    "CANCEL_SECONDS < ANSWER_SECONDS": "a slow statement is cancelled, and its connection stays",
    "ANSWER_SECONDS < ROUND_SECONDS": "a request waits no longer than a round",
    "ANSWER_SECONDS + OVERDUE_SECONDS < IN_10_S": "an answer, or the refusal, comes in time",
    "ASK_SECONDS + ASK_SECONDS < ANSWER_SECONDS": "a listener finds a server that has vanished",
    "WRITER_SECONDS + WAIT_SECONDS < IN_10_S": "a write is answered in time",
    "FAILING_SECONDS < WRITER_SECONDS": "appends that fail are noticed by whoever waits",
    "POLL_SECONDS < LEFT_SECONDS": "a rival takes a lead that was left to it",
    "POLL_SECONDS < APART_SECONDS": "the looks of a rival that lives prove something",
    "POLL_SECONDS < DEAD_IN": "a rival follows a leader that died",
    "BEAT_SECONDS + BEAT_ANSWER_SECONDS < FROZEN_SECONDS": "a beat that is lost is sent again",
    "BEAT_SECONDS + BEAT_ANSWER_SECONDS < LIVING_SECONDS": "a node that lives has reported",
    "DISPATCH_SECONDS < CERTAIN_SECONDS": "a dispatcher that does nothing else stays certain",
    "CERTAIN_SECONDS < FROZEN_SECONDS": "a dispatcher doubts its lead before a rival ends it",
    "FROZEN_SECONDS + POLL_SECONDS + POLL_SECONDS < FROZEN_IN": "a rival follows a frozen leader",
    "FROZEN_SECONDS < LIVING_SECONDS": "a node whose leads have ended may still report",
    "LISTENING_SECONDS < GAP_SECONDS": "leases are not put off while a service listens",
    "LISTENING_SECONDS < LATE_SECONDS": "a standby that follows answers",
}  # fmt: skip


@pytest.mark.parametrize("order", ORDER)
def test_a_duration_is_shorter_than_the_one_that_depends_on_it(order: str) -> None:
    shorter, longer = order.split(" < ")
    assert seconds(shorter) < seconds(longer), ORDER[order]


def seconds(sum_: str) -> float:
    """The value of names of durations that are added up."""
    return sum(
        float(globals()[name] if name in globals() else getattr(timing, name))
        for name in sum_.split(" + ")
    )


def test_each_duration_of_the_table_stands_in_the_order() -> None:
    named = {name for order in ORDER for name in order.replace(" + ", " < ").split(" < ")}
    assert {name for name in vars(timing) if name.isupper()} - named == set()
