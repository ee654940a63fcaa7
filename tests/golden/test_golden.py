"""Stored events are permanent: each class decodes the bytes that were written.

The ``.json`` files are stored ``state`` bytes, and each class encodes them. No file is EVER edited
or written again. A change of an event class after which a file no longer decodes, or is encoded
differently, breaks every existing ledger. Make a new class with the next version instead, add its
sample to ``samples.py``, and an upcaster for the old class (``log/codec.py``).
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from eventsourcing.persistence import MapperDeserialisationError, StoredEvent
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.events import EVENTS
from ledger.domain.execution_events import Woken
from ledger.domain.recorded import Event
from ledger.log.codec import UPCASTERS, EnvelopeMapper
from tests.golden.samples import (
    BODIES,
    FIRST,
    GROWN,
    GROWN_BODIES,
    envelope,
    file_of,
)

MAPPER = EnvelopeMapper()
EVER = (*EVENTS, *UPCASTERS)
"""Every class that was ever stored."""
CLASSES = pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.TOPIC)
INSTANTS = st.datetimes(timezones=st.just(UTC))
FULL = {type(body): body for body in BODIES}
FULL_GROWN = {type(body): body for body in GROWN_BODIES}
GROWN_CLASSES = pytest.mark.parametrize("kind", FULL_GROWN, ids=lambda kind: kind.TOPIC)
# The smallest stored body of each class: its fields that have no default.
MINIMAL = {
    "execution.activated/1": {
        "execution_id": "RUN-26-000001",
        "execution_id_origin": "issued",
        "product_line": "ods",
        "execution_model": "timeboxed_outcome",
        "started_at": "2026-01-15T00:00:00Z",
    },
    "execution.updated/1": {"project_tags": []},
    "execution.paused/1": {"hold": "operator"},
    "execution.resumed/1": {"hold": "operator"},
    "execution.blocked/1": {"blocker_id": "b", "cause": "delivery_blocker"},
    "execution.unblocked/1": {"blocker_id": "b"},
    "execution.idle/1": {"threshold_seconds": 900},
    "execution.check_in_voided/1": {
        "fact_id": "f",
        "hours": None,
        "checked_in_at": "2026-01-15T00:00:00Z",
        "resource_id": None,
    },
    "resource.allocated/1": {"resource": {"type": "t", "id": "r"}},
    "resource.released/1": {"id": "r"},
    "health.signal_reported/1": {"signal": "outcome_progress", "status": "green"},
    "run.requested/1": {"run_id_origin": "issued"},
    "run.erased/1": {"reason": "r"},
    "api_key.created/1": {"secret_hash": "AAEC", "permissions": []},
    "api_key.rotated/1": {"secret_hash": "AAEC", "prefix": "elk_7Qx2aB", "grace_seconds": 0},
    "webhook.created/1": {"url": "https://h.example/", "event_types": ["*"], "secret": "AAEC"},
    "webhook.updated/1": {"url": "https://h.example/", "event_types": ["*"], "enabled": True},
    "webhook.secret_rotated/1": {"secret": "AAEC"},
    "webhook.disabled/1": {"reason": "failing"},
    "webhook.recovery_requested/1": {"since": "2026-01-15T00:00:00Z"},
    "webhook.resend_requested/1": {"event_id": "EVT-26-000001"},
    "webhook.delivery_failed/1": {
        "event_id": "EVT-26-000001",
        "sequence": 1,
        "attempts": 5,
    },
    "write.refused/1": {"action": "execution.pause", "code": "not_found"},
    "write.refusals_omitted/1": {"count": 1, "since": "2026-01-15T00:00:00Z"},
    "run_data.read/1": {"service_line_id": "LIN-26-000001"},
}
NONCE = "AAECAwQFBgcICQoLDA0ODw=="
MICROS = 1_776_241_800_000_000  # 2026-04-15T08:30:00Z


def array_of(body: Any) -> bytes:
    """A state whose envelope has only what every event has."""
    who, nothing = [["system", "s"], "s"], [None, None, None]
    return json.dumps([2, *nothing, MICROS, MICROS, *who, *nothing, NONCE, body]).encode()


@pytest.mark.parametrize("kind", EVER, ids=lambda kind: kind.TOPIC)
def test_every_class_has_a_golden_file_and_an_older_class_is_decoded_as_a_newer_one(
    kind: type[Event],
) -> None:
    state = file_of(kind.TOPIC).read_bytes()
    decoded = MAPPER.decode("LIN-26-084729", 7, kind.TOPIC, state, 42)
    assert type(decoded.body) is (UPCASTERS[kind][0] if kind in UPCASTERS else kind)


@pytest.mark.parametrize("folder", [FIRST, GROWN], ids=lambda folder: folder.name)
def test_every_golden_file_belongs_to_a_class(folder: Path) -> None:
    known = {file_of(kind.TOPIC).name for kind in EVER}
    assert {path.name for path in folder.glob("*.json")} <= known


@CLASSES
def test_golden_bytes_decode_to_the_sample(kind: type[Event]) -> None:
    assert_decodes_to_sample(kind, file_of(kind.TOPIC).read_bytes())


@GROWN_CLASSES
def test_golden_bytes_of_a_class_that_gained_fields_are_those_of_its_sample(
    kind: type[Event],
) -> None:
    state, sample = file_of(kind.TOPIC, GROWN).read_bytes(), envelope(FULL_GROWN[kind])
    assert MAPPER.decode("LIN-26-084729", 7, kind.TOPIC, state, 42) == sample
    assert MAPPER.to_stored_event(sample).state == state


def assert_decodes_to_sample(kind: type[Event], state: bytes) -> None:
    decoded = MAPPER.decode("LIN-26-084729", 7, kind.TOPIC, state, 42)
    assert decoded == envelope(FULL[kind])
    assert type(decoded.body) is kind


@CLASSES
def test_the_sample_encodes_to_the_golden_bytes(kind: type[Event]) -> None:
    state = file_of(kind.TOPIC).read_bytes()
    stored = MAPPER.to_stored_event(envelope(FULL[kind]))
    assert stored == StoredEvent("LIN-26-084729", 7, kind.TOPIC, state)


@CLASSES
def test_the_golden_sample_sets_every_field(kind: type[Event]) -> None:
    folder = GROWN if kind in FULL_GROWN else FIRST
    stored = json.loads(file_of(kind.TOPIC, folder).read_bytes())
    assert len(stored) == 13
    assert None not in stored
    assert set(stored[-1]) == set(kind.__struct_fields__)


@CLASSES
def test_a_minimal_body_decodes_with_defaults_and_needs_each_of_its_fields(
    kind: type[Event],
) -> None:
    body = MINIMAL.get(kind.TOPIC, {})
    decoded = MAPPER.decode("LIN-26-000001", 1, kind.TOPIC, array_of(body), 1)
    assert decoded.fact is None
    assert decoded.organization_id is None
    assert decoded.recorded_at == datetime(2026, 4, 15, 8, 30, tzinfo=UTC)
    defaults = {
        field.name: field.default
        for field in msgspec.structs.fields(kind)
        if not field.required and field.name not in body
    }
    assert {name: getattr(decoded.body, name) for name in defaults} == defaults
    # Each field of the minimal body is needed.
    for name in body:
        incomplete = {key: value for key, value in body.items() if key != name}
        with pytest.raises(MapperDeserialisationError):
            MAPPER.decode("LIN-26-000001", 1, kind.TOPIC, array_of(incomplete), 1)


@CLASSES
def test_an_unknown_field_of_a_later_version_is_ignored(kind: type[Event]) -> None:
    stored = json.loads(file_of(kind.TOPIC).read_bytes())
    stored[-1]["later"] = 1
    assert_decodes_to_sample(kind, json.dumps(stored).encode())


@given(INSTANTS, INSTANTS)
def test_instants_keep_every_microsecond(occurred_at: datetime, recorded_at: datetime) -> None:
    event = msgspec.structs.replace(
        envelope(Woken()), occurred_at=occurred_at, recorded_at=recorded_at
    )
    stored = MAPPER.to_stored_event(event)
    decoded = MAPPER.decode("LIN-26-084729", 7, stored.topic, stored.state, 42)
    assert decoded == event
    assert (decoded.occurred_at.tzinfo, decoded.recorded_at.tzinfo) == (UTC, UTC)


@CLASSES
def test_every_class_has_a_versioned_topic_and_a_docstring(kind: type[Event]) -> None:
    name, _, version = kind.TOPIC.partition("/")
    assert name.count(".") == 1
    assert version.isdigit()
    assert kind.__doc__ is not None
    assert kind.__doc__.strip().splitlines()[0].endswith(".")
    assert kind.__doc__ != Event.__doc__


def test_topics_are_unique() -> None:
    assert len({kind.TOPIC for kind in EVENTS}) == len(EVENTS)


@pytest.mark.parametrize(
    ("topic", "state"),
    [
        ("execution.paused/99", b"{}"),
        ("execution.paused/99", b"[]"),
        ("execution.paused/1", b""),
        ("execution.paused/1", b"{"),
        ("execution.paused/1", b"[2"),
        ("execution.paused/1", array_of({"hold": "operator"}).replace(b"[2", b"[3", 1)),
        ("execution.paused/1", array_of({"hold": "operator"}).replace(b"1776", b"1776000")),
    ],
)
def test_an_unknown_topic_or_broken_bytes_raise_an_error_that_names_the_position(
    topic: str, state: bytes
) -> None:
    with pytest.raises(MapperDeserialisationError, match="position 9"):
        MAPPER.decode("LIN-26-000001", 1, topic, state, 9)
