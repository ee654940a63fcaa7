"""Stored events are permanent: each class decodes the bytes that were written.

The ``.json`` files are stored ``state`` bytes, and each class encodes them. No file is EVER edited
or written again. A change of an event class after which a file no longer decodes, or is encoded
differently, breaks every existing ledger. Make a new class with the next version instead, add its
sample to ``samples.py``, and a decoder of the old topic (``engine/log/codec.py``).
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

from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.values.recorded import Event, Recorded
from ledger.features.lines.model.execution_events import Woken
from ledger.records import EVENTS
from tests.whole.golden.samples import (
    BODIES,
    FIRST,
    GROWN,
    GROWN_BODIES,
    MINIMAL,
    envelope,
    file_of,
    grown_file,
)

MAPPER = EnvelopeMapper()
INSTANTS = st.datetimes(timezones=st.just(UTC))
FULL = {type(body): body for body in BODIES}
STORED = [
    kind
    for kind in EVENTS
    if kind in FULL and file_of(kind.TOPIC).is_file() and file_of(kind.TOPIC, MINIMAL).is_file()
]
STORED_GROWN = [body for body in GROWN_BODIES if grown_file(body).is_file()]
LATEST = {type(body): file_of(body.TOPIC) for body in BODIES} | {
    type(body): grown_file(body) for body in STORED_GROWN
}
CLASSES = pytest.mark.parametrize("kind", STORED, ids=lambda kind: kind.TOPIC)
NONCE = "AAECAwQFBgcICQoLDA0ODw=="
MICROS = 1_776_241_800_000_000  # 2026-04-15T08:30:00Z


def array_of(body: Any) -> bytes:
    """A state whose envelope has only what every event has."""
    who, nothing = [["system", "s"], "s"], [None, None, None]
    return json.dumps([2, *nothing, MICROS, MICROS, *who, *nothing, NONCE, body]).encode()


def test_every_class_has_a_sample_and_its_golden_files() -> None:
    assert set(EVENTS) - FULL.keys() == set(), (
        "Add a sample of the event, with every field set, to BODIES in golden/samples.py."
    )
    assert (set(EVENTS) - set(STORED), len(GROWN_BODIES)) == (set(), len(STORED_GROWN)), (
        "Write the files of the sample: python -m tests.whole.golden.samples"
    )


@pytest.mark.parametrize("folder", [FIRST, GROWN, MINIMAL], ids=lambda folder: folder.name)
def test_every_golden_file_belongs_to_a_class(folder: Path) -> None:
    expected = {file_of(topic).name for topic in MAPPER.topics_of(EVENTS)}
    expected |= {path.name for path in map(grown_file, GROWN_BODIES) if folder == GROWN}
    found = {path.name for path in folder.glob("*.json")}
    assert found - expected == set(), "an event without a row in the table of its aggregate"


@pytest.mark.parametrize(("topic", "kind"), MAPPER.topics_of(EVENTS).items())
def test_golden_bytes_of_an_old_topic_too_decode_to_its_class(
    topic: str, kind: type[Event]
) -> None:
    for path in (file_of(topic, folder) for folder in (FIRST, GROWN, MINIMAL)):
        if path.is_file():
            event = MAPPER.decode("LIN-26-084729", 7, topic, path.read_bytes(), 42)
            assert type(event.body) is kind


@CLASSES
def test_golden_bytes_decode_to_the_sample(kind: type[Event]) -> None:
    assert_decodes_to_sample(kind, file_of(kind.TOPIC).read_bytes())


@pytest.mark.parametrize("body", STORED_GROWN, ids=lambda body: grown_file(body).stem)
def test_golden_bytes_of_a_class_that_gained_fields_are_those_of_its_sample(body: Event) -> None:
    state, sample = grown_file(body).read_bytes(), envelope(body)
    assert decoded(type(body), state) == sample, "Add another sample: the file has its bytes."
    assert MAPPER.to_stored_event(sample).state == state


def assert_decodes_to_sample(kind: type[Event], state: bytes) -> None:
    event = decoded(kind, state)
    assert event == envelope(FULL[kind])
    assert type(event.body) is kind


def decoded(kind: type[Event], state: bytes) -> Recorded:
    try:
        return MAPPER.decode("LIN-26-084729", 7, kind.TOPIC, state, 42)
    except MapperDeserialisationError as error:
        pytest.fail(
            f"{error}. Ledgers have such events: give a new field a default. For any other change,"
            " make a new class with the next version."
        )


@CLASSES
def test_the_sample_encodes_to_the_golden_bytes(kind: type[Event]) -> None:
    state = file_of(kind.TOPIC).read_bytes()
    stored = MAPPER.to_stored_event(envelope(FULL[kind]))
    assert stored == StoredEvent("LIN-26-084729", 7, kind.TOPIC, state)


@CLASSES
def test_the_golden_sample_sets_every_field(kind: type[Event]) -> None:
    stored = json.loads(LATEST[kind].read_bytes())
    assert len(stored) == 13
    assert None not in stored
    assert set(kind.__struct_encode_fields__) - set(stored[-1]) == set(), (
        "Stored events lack the field: add a sample that sets it to GROWN_BODIES in"
        " tests/whole/golden/samples.py, then write its file."
    )


@CLASSES
def test_a_minimal_body_decodes_with_defaults_and_needs_each_of_its_fields(
    kind: type[Event],
) -> None:
    body = json.loads(file_of(kind.TOPIC, MINIMAL).read_bytes())[-1]
    event = decoded(kind, array_of(body))
    assert event.fact is None
    assert event.organization_id is None
    assert event.recorded_at == datetime(2026, 4, 15, 8, 30, tzinfo=UTC)
    defaults = {
        field.name: field.default
        for field in msgspec.structs.fields(kind)
        if not field.required and field.name not in body
    }
    assert {name: getattr(event.body, name) for name in defaults} == defaults
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
    again = decoded(Woken, stored.state)
    assert again == event
    assert (again.occurred_at.tzinfo, again.recorded_at.tzinfo) == (UTC, UTC)


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
