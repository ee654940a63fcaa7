"""The leaf of a stored event: its keys and its bytes (contract, Proof)."""

import hashlib
import json
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.values.recorded import Actor
from ledger.engine.values.values import format_instant, micros_of
from ledger.features.lines.model.execution_events import CheckedIn, Woken
from ledger.features.proof.sealing.leaf import UnreadableEvent, leaf_and_instant, leaf_of
from tests.whole.golden.samples import envelope, file_of

LEAF = (
    '{"v":2,"position":42,"stream":"LIN-26-084729","version":7,"type":"execution.checked_in/1",'
    '"occurred_at":"2026-04-15T08:30:00Z","recorded_at":"2026-04-15T08:30:00.123456Z",'
    '"actor":{"type":"agent","id":"AGT-1"},"reported_by":"KEY-26-000001",'
    '"stored_sha256":"8665dcf302e9bdcb7d24c20e2dea7bbd8650b887b518904cce166396cff92af6",'
    '"nonce":"AAECAwQFBgcICQoLDA0ODw=="}'
)


def test_the_leaf_of_a_golden_event_has_these_bytes() -> None:
    state = file_of(CheckedIn.TOPIC).read_bytes()
    assert leaf_of("LIN-26-084729", 7, CheckedIn.TOPIC, state, 42).decode() == LEAF


@pytest.mark.parametrize("state", [b'{"recorded_at":"2026-04-15T08:30:00Z"}', b"[2]", b""])
def test_no_leaf_is_made_of_what_is_no_event(state: bytes) -> None:
    with pytest.raises(UnreadableEvent):
        leaf_of("LIN-26-084729", 7, CheckedIn.TOPIC, state, 42)


INSTANTS = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


@given(INSTANTS, INSTANTS, st.text(), st.text())
def test_a_leaf_repeats_the_stored_event(
    occurred_at: datetime, recorded_at: datetime, actor: str, reporter: str
) -> None:
    event = msgspec.structs.replace(
        envelope(Woken()),
        occurred_at=occurred_at,
        recorded_at=recorded_at,
        actor=Actor("user", actor),
        reported_by=reporter,
    )
    state = EnvelopeMapper().encode(event)
    leaf, instant = leaf_and_instant("LIN-26-084729", 7, Woken.TOPIC, state, 42)
    assert instant == micros_of(recorded_at)
    assert json.loads(leaf) == {
        "v": 2,
        "position": 42,
        "stream": "LIN-26-084729",
        "version": 7,
        "type": Woken.TOPIC,
        "occurred_at": format_instant(occurred_at),
        "recorded_at": format_instant(recorded_at),
        "actor": {"type": "user", "id": actor},
        "reported_by": reporter,
        "stored_sha256": hashlib.sha256(state).hexdigest(),
        "nonce": "AAECAwQFBgcICQoLDA0ODw==",
    }
