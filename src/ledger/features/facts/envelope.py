"""Parsing of CloudEvents into facts that the writer can decide on (contract, Facts).

A CloudEvent with broken attributes (such as no id) becomes a ``Rejected``. One with wrong data
becomes a ``Fact`` with ``fault`` set: checks run in the order 401, 403, 404, 422, 409, and only the
writer can check that the subject exists.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, Literal, Required, TypedDict, get_args
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Meta
from pydantic import ValidationError

from ledger.engine.http.models import MAX_LABEL, NOT_PLAIN
from ledger.engine.log.vault import content_digest
from ledger.engine.values import json_gate, values
from ledger.engine.values.errors import Invalid, Refused, TooLarge
from ledger.engine.values.places import MOST_ERRORS, pointer_to, pointers
from ledger.engine.values.recorded import Actor
from ledger.engine.values.refusals import UNKNOWN_ACTION
from ledger.engine.writer.request import About
from ledger.features.directory import model as directory
from ledger.features.facts import fact_types

MAX_FACT_BYTES = 256 * 1024
MAX_ITEMS = 1000
MAX_BODY_BYTES = 8 * 1024 * 1024
TOO_LARGE = "A fact may have at most 256 KiB."

ATTRIBUTE = "^[a-z0-9]+$"
"""The form of attribute names in CloudEvents, whose limit of 20 characters is only a SHOULD."""
_ATTRIBUTE = re.compile(ATTRIBUTE)
SUBJECT_IDS = {
    "line": values.LINE_ID,
    "run": values.RUN_ID,
    "directory": f"{values.WORKSPACE_ID}|{values.PROJECT_ID}",
}
_SUBJECT = {kind: re.compile(form) for kind, form in SUBJECT_IDS.items()}
_FORM_TEXTS = {"line": "a LIN-YY-NNNNNN id", "run": "a RUN-YY-NNNNNN id"}
_FORM_TEXTS["directory"] = "a WS-YY-NNNNNN or PROJ-YY-NNNNNN id"
_ACTOR_TYPES = get_args(values.ActorType)
_TRACEPARENT = re.compile(
    "((?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(-.*)?"
)
"""The extension ``traceparent`` (W3C Trace Context, 3.2). A later version may have more parts."""

MAX_ID, MAX_ACTOR = 255, 200

_Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]


class _Event(TypedDict, total=False):
    """A CloudEvent whose attributes have no fault that ``_form_faults`` finds."""

    specversion: Required[Literal["1.0"]]
    id: Required[_Id]
    source: Required[_Id]
    type: Required[str]
    subject: str | None
    time: str | None
    datacontenttype: str | None
    actortype: str | None
    actorid: str | None
    traceparent: str | None
    data: Any


_USUAL = _Event.__annotations__.keys()
_decode = msgspec.json.Decoder(_Event).decode

_ENCODED = "data_base64"
_ENCODED_POINTER = f"/{_ENCODED}"


class Fact(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """A reported fact, parsed and checked as far as possible without the ledger's state.

    On its way to another process a fact is msgpack without what follows from the rest: pickling its
    data would take ten times as long.
    """

    type: str
    id: str
    source: str
    subject: str | None
    time: datetime | None
    """The reported time; None means the instant of the decision under the append lock."""
    actor: Actor | None
    content: bytes
    """Canonical content, to tell a duplicate from a conflict (contract, Facts, "Identity").

    A fact about a run has the content itself, whose digest depends on the run's key; any other has
    its SHA-256.
    """
    sent: Any
    """The data as sent, for checks that come before the data's own."""
    fault: Invalid | None

    named_line: str | None
    """The line that a run's data name, if it has the form of a LIN id."""
    named_record: str | None
    """The execution id that an activation's data name, if it has the form of a RUN id."""
    named_parent: str | None
    """The parent that a run's data name, if it has the form of a RUN id."""
    external_id: str | None
    """The run's name at the fact's source, if the data give one of a valid length."""
    attempt: int | None
    """The attempt of that name, if the data give one within the bounds."""
    parent_external_id: str | None
    """The parent's name at the fact's source, like ``external_id``."""
    traceparent: str | None
    """The trace of the fact (W3C Trace Context); a malformed one is ignored."""
    streams: tuple[str, ...]
    """The subject, if it has its own stream, and the line, record or parent of the data."""

    def __reduce__(self) -> str | tuple[Any, ...]:
        return (_unpacked, (_pack(self),)) if self.fault is None else super().__reduce__()

    @cached_property
    def kind(self) -> fact_types.FactType:
        return fact_types.FACT_TYPES[self.type]

    @cached_property
    def data(self) -> fact_types.FactData | None:
        """The checked data; None if they have a fault."""
        return _checked_data(self.kind, self.sent)[0]

    @property
    def about(self) -> About:
        """The data for the audit log if the fact is refused (contract, Feeds)."""
        line, resource = self.named_line, None
        if self.subject is not None:
            resource = _resource(self.kind.subject, self.subject)
        elif line is not None:
            resource = _resource("line", line)
        return About(
            self.type,
            resource,
            _plain_actor(self.actor),
            self.time,
            self.source if values.is_plain(self.source) else None,
            self.id if values.is_plain(self.id) else None,
            _named_tenant(self.type, self.sent),
            line,
        )


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Fact).decode


def _unpacked(packed: bytes) -> Fact:
    return _unpack(packed)


class Rejected(msgspec.Struct, frozen=True):
    """A CloudEvent that is not a fact: the reason, and its readable attributes."""

    error: Refused
    id: str | None = None
    source: str | None = None
    subject: str | None = None
    about: About | None = None
    """The data for the audit log; None if the event was not readable at all."""


def from_structured(raw: bytes) -> Fact | Rejected:
    """Parse a structured CloudEvent. Raises BrokenJson if the text is not JSON."""
    if len(raw) > MAX_FACT_BYTES:
        # Broken JSON is an error of the whole body, even in one item of a batch. So the syntax of
        # an item that is too large is checked too.
        json_gate.check_syntax(raw)
        return Rejected(TooLarge(TOO_LARGE))
    sound = json_gate.parse_typed(raw, _decode)
    if sound is not None:
        event: Any = sound
        return _from_attributes(event, event.get("data"), is_sound=True)
    try:
        event = json_gate.parse(raw)
    except Invalid as error:
        return Rejected(error)
    if type(event) is not dict:
        return Rejected(Invalid.at("", "must be an object"))
    if _ENCODED not in event:
        return _from_attributes(event, event.get("data"))
    data, faults = _encoded_data(event)
    return _from_attributes(event, data, faults)


def _encoded_data(event: dict[str, Any]) -> tuple[Any, Sequence[tuple[str, str]]]:
    """Remove the data from an event with ``data_base64``; return the data, and their faults.

    CloudEvents SDKs send data that they have as bytes in this member (CloudEvents JSON format,
    3.1.1). The ledger stores only JSON, so the bytes must be JSON, by the rules of every body.
    """
    data, encoded = event.get("data"), event.pop(_ENCODED)
    if encoded is None:
        return data, ()
    if data is not None:
        return data, [(_ENCODED_POINTER, "must not stand beside data")]
    try:
        # The data start at depth 2, like ``data``.
        return json_gate.parse(_decoded(encoded), depth=2), ()
    except json_gate.BrokenJson:
        return None, [(_ENCODED_POINTER, "must hold JSON in UTF-8")]
    except Invalid as error:
        return None, [(_ENCODED_POINTER, sentence) for _, sentence in error.errors]


def _decoded(encoded: Any) -> bytes:
    try:
        if isinstance(encoded, str):
            return base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        pass
    raise Invalid.at(_ENCODED_POINTER, "must be base64")


def from_binary(headers: Iterable[tuple[str, str]], raw: bytes) -> Fact | Rejected:
    """Parse a binary-mode CloudEvent: attributes from ``ce-`` headers, data from the body.

    Raises BrokenJson if the body is not JSON.
    """
    named = [(name[3:], value) for name, value in headers if name.startswith("ce-")]
    sent = dict(named)
    if len(sent) != len(named):
        return Rejected(Invalid.at("", "an attribute is given twice"))
    decoded = {name: _header_text(value) for name, value in sent.items()}
    attributes = {name: text for name, text in decoded.items() if text is not None}
    if len(raw) + sum(map(len, attributes.values())) > MAX_FACT_BYTES:
        if raw.strip():
            json_gate.check_syntax(raw)
        return Rejected(TooLarge(TOO_LARGE))
    try:
        # The data start at depth 2, as in a structured event.
        data = json_gate.parse(raw, depth=2) if raw.strip() else None
        if any("\0" in value for value in attributes.values()):
            return Rejected(Invalid.at("", "an attribute contains NUL"))
    except Invalid as error:
        return Rejected(error)
    faults = [
        (pointer_to("", name), "must be UTF-8 in percent encoding")
        for name in sorted(decoded.keys() - attributes.keys())
    ]
    return _from_attributes(attributes, data, faults[:MOST_ERRORS])


def _header_text(value: str) -> str | None:
    """An attribute from its header: unquoted, then percent-decoded (CloudEvents HTTP, 3.1.3.2).

    Returns None if the result is not UTF-8, for percent-encoded bytes and for bare ones (which the
    server decoded as Latin-1). With replacement characters, or as Latin-1, two different ids could
    become equal.
    """
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    try:
        return unquote_to_bytes(value.encode("latin-1")).decode()
    except UnicodeDecodeError:
        return None


def _from_attributes(
    event: dict[str, Any],
    data: Any,
    faults: Sequence[tuple[str, str]] = (),
    *,
    is_sound: bool = False,
) -> Fact | Rejected:
    """The common part of both modes; ``faults`` are about parts that ``event`` does not contain.

    ``is_sound``: the event is an ``_Event``.
    """
    try:
        if faults:
            raise Invalid("The fact is not valid.", tuple(faults))
        return _fact(event, data, is_sound)
    except Invalid as error:
        fact_id, source, subject = (
            value if isinstance(value, str) else None
            for value in (event.get("id"), event.get("source"), event.get("subject"))
        )
        return Rejected(error, fact_id, source, subject, _about(event, data))


def _about(event: dict[str, Any], data: Any) -> About:
    """The audit data of an object that is not a fact: type, actor, time, and well-formed ids."""

    def text(name: str, limit: int) -> str | None:
        value = event.get(name)
        if not isinstance(value, str) or not 1 <= len(value) <= limit:
            return None
        return value if values.is_plain(value) else None

    sent_type, subject = text("type", 100) or UNKNOWN_ACTION, text("subject", 255) or ""
    name = fact_types.ALIASES.get(sent_type, sent_type)
    named = [_resource(k, subject) for k, form in _SUBJECT.items() if form.fullmatch(subject)]
    line = (
        _named_line(kind, data) if (kind := fact_types.FACT_TYPES.get(name)) is not None else None
    )
    if line is not None:
        named.append(_resource("line", line))
    return About(
        name,
        named[0] if named else None,
        None if _actor_faults(event) else _plain_actor(_actor(event)),
        _time(event.get("time"))[0],
        text("source", 255),
        text("id", 255),
        _named_tenant(sent_type, data),
        line,
    )


def _fact(event: dict[str, Any], data: Any, is_sound: bool) -> Fact:
    faults = [] if is_sound else _form_faults(event)
    faults += _value_faults(event)
    sent_type, subject = event.get("type"), event.get("subject")
    name = fact_types.ALIASES.get(sent_type, sent_type) if isinstance(sent_type, str) else None
    kind = fact_types.FACT_TYPES.get(name) if name is not None else None
    if kind is None or name is None:
        faults.append(("/type", "must be one of the documented fact types"))
    else:
        faults += _subject_faults(subject, kind, data)
    time, late_faults = _time(event.get("time"))
    if faults or kind is None or name is None:
        raise Invalid("The fact is not valid.", tuple(faults))
    sent = json_gate.by_value(data)
    instant = values.format_instant(time) if time is not None else None
    who = [event.get("actortype"), event.get("actorid")]
    content_data = _content_of(kind.data, sent)
    content = json_gate.canonical([sent_type, subject, instant, content_data, *who])
    model, fault = _checked_data(kind, sent)
    late_faults += _unplain(event)
    if late_faults:
        fault = Invalid("The fact is not valid.", late_faults + (fault.errors if fault else ()))
    fact_id, source, trace = event["id"], event["source"], _traceparent(event.get("traceparent"))
    is_run, begins = kind.subject == "run", name == "service_line.activated"
    record = values.id_named(sent, "execution_id", _SUBJECT["run"]) if begins else None
    line_id, parent_id = _named_line(kind, sent), None
    if kind.subject_optional:
        parent_id = values.id_named(sent, "parent_run_id", _SUBJECT["run"])
    named = (None if kind.subject == "directory" else subject, record, line_id, parent_id)
    # Positional arguments: keyword arguments would take five times as long for every fact.
    fact = Fact(
        name,
        fact_id,
        source,
        subject,
        time,
        _actor(event),
        content if is_run else content_digest(content),
        sent,
        fault,
        line_id,
        record,
        parent_id,
        *(_names(sent) if is_run and isinstance(sent, dict) else (None,) * 3),
        trace,
        tuple([each for each in named if each is not None]),
    )
    vars(fact).update(kind=kind, data=model)
    return fact


def _content_of(kind: type[fact_types.FactData], sent: Any) -> Any:
    """The data without null fields: null means absence, except where it removes a value."""
    if type(sent) is not dict:
        return sent
    return {
        name: value
        if type(value) is str or name in fact_types.ANY_JSON
        else json_gate.without_nulls(value)
        for name, value in sent.items()
        if value is not None or name in kind.REMOVABLE
    }


def _resource(kind: str, identifier: str) -> tuple[str, str]:
    if kind == "directory":
        return directory.kind_of(identifier), identifier
    return "service_line" if kind == "line" else kind, identifier


def _named_line(kind: fact_types.FactType, sent: Any) -> str | None:
    return (
        values.id_named(sent, "service_line_id", _SUBJECT["line"])
        if kind.subject == "run"
        else None
    )


def _names(sent: dict[str, Any]) -> tuple[str | None, int | None, str | None]:
    """The run's name, its attempt and the parent's name, each None if it is not well-formed."""
    name, parent = (
        value if isinstance(value, str) and 1 <= len(value) <= MAX_LABEL else None
        for value in (sent.get(fact_types.NAME_OF_RUN), sent.get("parent_external_id"))
    )
    attempt = sent.get("attempt")
    is_number = type(attempt) is int and 1 <= attempt <= fact_types.MAX_ATTEMPTS
    return name, attempt if is_number else None, parent


def _traceparent(value: Any) -> str | None:
    """Parse a ``traceparent``. None if malformed; a version must have exactly its parts."""
    if value is None:
        return None
    found = _TRACEPARENT.fullmatch(value) if isinstance(value, str) else None
    if found is None or (found[2] is not None and found[1].startswith("00")):
        return None
    return found[1]


def _named_tenant(name: str, sent: Any) -> tuple[str, str | None] | None:
    """The tenant of the line that an activation would begin, even if its other data are wrong."""
    organization_id = values.id_named(sent, "organization_id", values.ORGANIZATION_ID)
    if name != "service_line.activated" or organization_id is None:
        return None
    return organization_id, values.id_named(sent, "workspace_id", values.WORKSPACE_ID)


def _time(value: Any) -> tuple[datetime | None, tuple[tuple[str, str], ...]]:
    """The time, and its faults. A wrong time is refused after the 404 check, like wrong data."""
    if value is None:
        return None, ()
    try:
        return values.parse_instant(value if isinstance(value, str) else ""), ()
    except ValueError as error:
        return None, (("/time", str(error)),)


def _unplain(event: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """The attributes with characters that no name may have.

    Such an attribute is refused after the 404 check, like wrong data.
    """
    actor_id: str = event.get("actorid") or ""
    if (event["id"] + event["source"] + actor_id).isprintable():
        return ()
    named = ("id", "source", "actorid")
    return tuple(
        (f"/{name}", NOT_PLAIN[values.LABEL])
        for name in named
        if not values.is_plain(event.get(name) or "")
    )


def _form_faults(event: dict[str, Any]) -> list[tuple[str, str]]:
    """The faults that an ``_Event`` does not have."""
    faults = []
    if event.get("specversion") != "1.0":
        faults.append(("/specversion", 'must be "1.0"'))
    for name in ("id", "source"):
        value = event.get(name)
        if not isinstance(value, str) or not 1 <= len(value) <= MAX_ID:
            faults.append((f"/{name}", f"must be a string of 1 to {MAX_ID} characters"))
    misnamed = [name for name in event.keys() - _USUAL if not _ATTRIBUTE.fullmatch(name)]
    for name in sorted(misnamed)[:MOST_ERRORS]:
        sentence = "an attribute name must consist of lower-case letters and digits"
        faults.append((pointer_to("", name), sentence))
    return faults


def _value_faults(event: dict[str, Any]) -> list[tuple[str, str]]:
    media = event.get("datacontenttype")
    if media is not None and not _is_json(media):
        return [("/datacontenttype", "must be application/json"), *_actor_faults(event)]
    return _actor_faults(event)


def _is_json(media: Any) -> bool:
    if not isinstance(media, str):
        return False
    essence = media.split(";")[0].strip().lower()
    return essence == "application/json" or essence.endswith("+json")


def _actor_faults(event: dict[str, Any]) -> list[tuple[str, str]]:
    actor_type, actor_id = event.get("actortype"), event.get("actorid")
    if (actor_type is None) != (actor_id is None):
        return [("/actortype", "actortype and actorid must be given together")]
    if actor_type is None:
        return []
    faults = []
    if actor_type not in _ACTOR_TYPES:
        faults.append(("/actortype", "must be user, agent or api_key"))
    if not isinstance(actor_id, str) or not 1 <= len(actor_id) <= MAX_ACTOR:
        faults.append(("/actorid", f"must be a string of 1 to {MAX_ACTOR} characters"))
    return faults


def _actor(event: dict[str, Any]) -> Actor | None:
    if event.get("actortype") is None:
        return None
    return Actor(event["actortype"], event["actorid"])


def _plain_actor(actor: Actor | None) -> Actor | None:
    return None if actor is None or not values.is_plain(actor.id) else actor


def _subject_faults(subject: Any, kind: fact_types.FactType, data: Any) -> list[tuple[str, str]]:
    if subject is None and (kind.subject_optional or _has_external_id(kind, data)):
        return []
    if not isinstance(subject, str) or not _SUBJECT[kind.subject].fullmatch(subject):
        return [("/subject", f"must be {_FORM_TEXTS[kind.subject]}")]
    return []


def _has_external_id(kind: fact_types.FactType, data: Any) -> bool:
    """True if the data name the run of a fact without a subject, even wrongly."""
    return (
        kind.subject == "run"
        and isinstance(data, dict)
        and data.get(fact_types.NAME_OF_RUN) is not None
    )


def _checked_data(
    kind: fact_types.FactType, data: Any
) -> tuple[fact_types.FactData | None, Invalid | None]:
    try:
        # ``model_validate`` would take half as long again.
        return kind.data.__pydantic_validator__.validate_python({} if data is None else data), None
    except ValidationError as error:
        return None, Invalid("The fact's data is not valid.", pointers(error, "/data"))
