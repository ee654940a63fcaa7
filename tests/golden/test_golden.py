"""Stored events are permanent: each class decodes and encodes the bytes that were first written.

The ``.json`` files beside this test are stored ``state`` bytes. These files are NEVER edited and
never written again. A change of an event class after which a file no longer decodes, or is encoded
differently, breaks every existing ledger. Make a new class with the next version instead, and add
its sample to ``samples.py``.
"""

import json

import msgspec
import pytest
from eventsourcing.persistence import MapperDeserialisationError, StoredEvent

from ledger.domain.events import EVENTS
from ledger.domain.recorded import Event
from ledger.log.codec import EnvelopeMapper
from tests.golden.samples import BODIES, FOLDER, envelope, file_of

MAPPER = EnvelopeMapper()
CLASSES = pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.TOPIC)
FULL = {type(body): body for body in BODIES}
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
    "webhook.created/1": {"url": "https://h.example/", "event_types": ["*"], "secret": "AAEC"},
    "webhook.updated/1": {"url": "https://h.example/", "event_types": ["*"], "enabled": True},
    "webhook.secret_rotated/1": {"secret": "AAEC"},
    "webhook.disabled/1": {"reason": "failing"},
    "webhook.recovery_requested/1": {"since": "2026-01-15T00:00:00Z"},
    "webhook.delivery_failed/1": {
        "event_id": "EVT-26-000001",
        "sequence": 1,
        "attempts": 5,
    },
    "write.refused/1": {"action": "execution.pause", "code": "not_found"},
    "write.refusals_omitted/1": {"count": 1, "since": "2026-01-15T00:00:00Z"},
}
MINIMAL_ENVELOPE = {
    "occurred_at": "2026-04-15T08:30:00Z",
    "recorded_at": "2026-04-15T08:30:00Z",
    "actor": {"type": "system", "id": "s"},
    "reported_by": "s",
    "nonce": "AAECAwQFBgcICQoLDA0ODw==",
}


@CLASSES
def test_every_class_has_a_golden_file(kind: type[Event]) -> None:
    assert file_of(kind.TOPIC).is_file()


def test_every_golden_file_belongs_to_a_class() -> None:
    known = {file_of(kind.TOPIC).name for kind in EVENTS}
    assert {path.name for path in FOLDER.glob("*.json")} == known


@CLASSES
def test_golden_bytes_decode_to_the_sample(kind: type[Event]) -> None:
    expected = envelope(FULL[kind])
    state = file_of(kind.TOPIC).read_bytes()
    decoded = MAPPER.decode("LIN-26-084729", 7, kind.TOPIC, state, 42)
    assert decoded == expected
    assert type(decoded.body) is kind


@CLASSES
def test_the_sample_encodes_to_the_golden_bytes(kind: type[Event]) -> None:
    state = file_of(kind.TOPIC).read_bytes()
    stored = MAPPER.to_stored_event(envelope(FULL[kind]))
    assert stored == StoredEvent("LIN-26-084729", 7, kind.TOPIC, state)


@CLASSES
def test_the_golden_sample_sets_every_field(kind: type[Event]) -> None:
    stored = json.loads(file_of(kind.TOPIC).read_bytes())
    assert set(stored["body"]) == set(kind.__struct_fields__)
    assert len(stored) == 12


@CLASSES
def test_a_minimal_body_decodes_with_defaults_and_needs_each_of_its_fields(
    kind: type[Event],
) -> None:
    body = MINIMAL.get(kind.TOPIC, {})
    state = json.dumps(MINIMAL_ENVELOPE | {"body": body}).encode()
    decoded = MAPPER.decode("LIN-26-000001", 1, kind.TOPIC, state, 1)
    assert decoded.fact is None
    assert decoded.organization_id is None
    defaults = {
        field.name: field.default
        for field in msgspec.structs.fields(kind)
        if not field.required and field.name not in body
    }
    assert {name: getattr(decoded.body, name) for name in defaults} == defaults
    # Each field of the minimal body is needed.
    for name in body:
        incomplete = {key: value for key, value in body.items() if key != name}
        state = json.dumps(MINIMAL_ENVELOPE | {"body": incomplete}).encode()
        with pytest.raises(MapperDeserialisationError):
            MAPPER.decode("LIN-26-000001", 1, kind.TOPIC, state, 1)


@CLASSES
def test_an_unknown_field_of_a_later_version_is_ignored(kind: type[Event]) -> None:
    stored = json.loads(file_of(kind.TOPIC).read_bytes())
    stored["later"] = stored["body"]["later"] = 1
    decoded = MAPPER.decode("LIN-26-084729", 7, kind.TOPIC, json.dumps(stored).encode(), 42)
    assert decoded == envelope(FULL[kind])


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


def test_an_unknown_topic_or_broken_bytes_raise_an_error_that_names_the_position() -> None:
    for topic, state in (("execution.paused/99", b"{}"), ("execution.paused/1", b"{")):
        with pytest.raises(MapperDeserialisationError, match="position 9"):
            MAPPER.decode("LIN-26-000001", 1, topic, state, 9)
