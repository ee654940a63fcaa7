"""The generated module ``types.py``: what answers contain, and what commands and facts take.

An answer is a ``msgspec.Struct``, which ignores fields that it does not know. An object that is
sent is a ``TypedDict``. An enumeration is a ``Literal`` for the type checker, but any text when it
is decoded. So a word of a newer service is no error.
"""

import keyword
import re
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

Schema = dict[str, Any]

SINCE: dict[str, str] = {}
"""Fields that earlier services do not send, with the value that each then has."""

PREFIX = "#/components/schemas/"


class Names:
    """The names that schemas have in Python."""

    def __init__(self, schemas: dict[str, Schema]) -> None:
        self._schemas = schemas

    def of(self, name: str) -> str:
        """A name without the service's own prefix, unless another schema has that name."""
        short = name.removeprefix("Shown")
        return name if short != name and short in self._schemas else short


class Written:
    """Collects the types of the schemas that the generated code needs."""

    def __init__(self, document: Schema) -> None:
        self.schemas: dict[str, Schema] = document["components"]["schemas"]
        self.names = Names(self.schemas)
        self.reached: dict[str, Schema] = {}

    def type_of(self, schema: Schema, *, sent: bool = False) -> str:
        """The annotation of a value; with ``sent``, of a value that the client sends."""
        if "$ref" in schema:
            return self._reach(schema["$ref"].removeprefix(PREFIX), sent)
        for several in ("anyOf", "oneOf"):
            if several in schema:
                found = [self.type_of(each, sent=sent) for each in schema[several]]
                numbers = [each for each in found if not (each == "int" and "float" in found)]
                return " | ".join(dict.fromkeys(numbers))
        if "const" in schema:
            return f"Literal[{_quoted(schema['const'])}]"
        if "enum" in schema:
            words = ", ".join(map(_quoted, schema["enum"]))
            return "Literal[True]" if words == '"true"' else f"Literal[{words}]"
        kind = schema.get("type")
        if kind == "array":
            item = self.type_of(schema["items"], sent=sent) if "items" in schema else "Any"
            return f"Sequence[{item}]" if sent else f"list[{item}]"
        if kind == "string":
            made = {"date-time": "datetime", "date": "date"}.get(schema.get("format", ""), "str")
            return "Instant" if sent and made != "str" else made
        if kind == "object":
            more = schema.get("additionalProperties")
            return f"dict[str, {self.type_of(more) if isinstance(more, dict) else 'Any'}]"
        return {"integer": "int", "number": "float", "boolean": "bool", "null": "None"}.get(
            str(kind), "Any"
        )

    def _reach(self, name: str, sent: bool) -> str:
        if name not in self.reached:
            self.reached[name] = self.schemas[name]
            self._definition(name)  # for the types that it reaches
        if "discriminator" in self.schemas[name] and name != "Event":
            return self.type_of({"oneOf": self.schemas[name]["oneOf"]}, sent=sent)
        return self.names.of(name)

    def module(self) -> str:
        """The text of the module, unformatted."""
        words, objects, choices, events = [], [], [], []
        for name, schema in sorted(self.reached.items()):
            if "enum" in schema:
                words.append((self.names.of(name), self.type_of(schema)))
            elif name.endswith("Event"):
                events.append(name)
            if "properties" in schema and self._is_choice(schema):
                choices.append(textwrap.indent(self._definition(name), "    "))
                words.append((self.names.of(name), ""))
            elif "properties" in schema:
                objects.append(self._definition(name))
        text = "\n".join(f"    {name}: TypeAlias = {type_}" for name, type_ in words if type_)
        text += "\n" + "\n\n".join(choices)
        decoded = "\n".join(
            f"    {name} = {'str' if type_ else 'dict[str, Any]'}" for name, type_ in words
        )
        every = " | ".join(self.names.of(name) for name in events if name != "Event")
        rows = "\n".join(
            f"    {_quoted(self.schemas[name]['properties']['type']['const'])}: {name},"
            for name in events
            if name != "Event"
        )
        return HEAD.format(words=text, decoded=decoded) + TAIL.format(
            objects="\n\n".join(objects), rows=rows, every=every
        )

    def _definition(self, name: str) -> str:
        schema = self.schemas[name]
        if "oneOf" in schema:
            for each in schema["oneOf"]:
                self.type_of(each)
        if "properties" not in schema:
            return ""
        if is_sent(schema) or self._is_choice(schema):
            return self._typed_dict(name, schema)
        is_event = name.endswith("Event")
        base = "_Event" if is_event else "_Answer"
        text = f"class {self.names.of(name)}({base}, frozen=True, kw_only=True):\n"
        text += docstring(schema.get("description") or _sentence(name))
        for field, value in schema["properties"].items():
            if not is_event or field in ("type", "payload"):
                text += self._field(field, value, field in schema.get("required", ()))
            else:
                self.type_of(value)
        return text

    def _is_choice(self, schema: Schema) -> bool:
        """Return True if an answer has the object as one of several kinds, marked by ``kind``."""
        return "const" in schema["properties"].get("kind", ())

    def _field(self, name: str, schema: Schema, is_required: bool) -> str:
        type_ = self.type_of(schema)
        if not is_required and type_ != "Any" and not type_.endswith(" | None"):
            type_ = f"{type_} | None"
        default = SINCE.get(name) or ("None" if type_ == "Any" or type_.endswith(" | None") else "")
        own = f"{name}_" if keyword.iskeyword(name) else name
        if own != name:
            suffix = f", default={default}" if default else ""
            text = f"    {own}: {type_} = field(name={_quoted(name)}{suffix})\n"
        else:
            text = f"    {own}: {type_}{f' = {default}' if default else ''}\n"
        return text + explained(schema)

    def _typed_dict(self, name: str, schema: Schema) -> str:
        text = f"class {self.names.of(name)}(TypedDict, total=False):\n"
        text += docstring(schema.get("description") or _sentence(name))
        return text + "".join(argument.key() for argument in self.arguments(schema))

    def arguments(self, schema: Schema) -> list["Argument"]:
        """The fields of an object that is sent."""
        required = schema.get("required", ())
        return [
            self.argument(name, each, name in required)
            for name, each in schema["properties"].items()
        ]

    def argument(self, name: str, schema: Schema, is_required: bool) -> "Argument":
        """A field of an object that is sent, or a parameter of a query."""
        own = f"{name}_" if keyword.iskeyword(name) else name
        type_ = self.type_of(schema, sent=True)
        return Argument(own, type_, is_required, explained(schema))


class Argument(NamedTuple):
    """An argument of a method, or a key of a ``TypedDict``."""

    name: str
    type: str
    is_required: bool
    docs: str = ""

    def key(self) -> str:
        """The line of a ``TypedDict``."""
        type_ = f"Required[{self.type}]" if self.is_required else self.type
        return f"    {self.name}: {type_}\n{self.docs}"


def is_sent(schema: Schema) -> bool:
    """Return True for an object that clients send, which allows no other fields."""
    return schema.get("additionalProperties") is False


def docstring(text: str, indent: str = "    ") -> str:
    """A docstring of at most 96 columns."""
    paragraphs = [" ".join(each.split()) for each in re.split(r"\n\s*\n", text.strip())]
    lines = [textwrap.fill(each, 92 - len(indent)) for each in paragraphs]
    body = "\n\n".join(lines).replace("\\", "\\\\")
    end = "\n" if "\n" in body else ""
    return textwrap.indent(f'"""{body}{end}"""', indent) + "\n"


def explained(schema: Schema) -> str:
    """The description of a field as a docstring below it, which editors show."""
    found = next(_descriptions(schema), "")
    return docstring(found) if found else ""


def _descriptions(schema: Schema) -> Iterator[str]:
    if "description" in schema:
        yield schema["description"]
    for each in schema.get("anyOf", ()):
        if "description" in each:
            yield each["description"]


def _sentence(name: str) -> str:
    words = " ".join(re.findall(r"[A-Z][a-z]*", name)).lower()
    return f"{words.capitalize()}."


def _quoted(word: object) -> str:
    return f'"{word}"'


HEAD = '''"""Answers, and objects that are sent: generated by scripts/python_client.

An answer passes over fields that it does not know. A word that the type checker does not know may
come from a newer service. An event of a type that is not known is an ``OtherEvent``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, Required, TypeAlias, TypedDict, TypeVar

from msgspec import Struct, field

T = TypeVar("T")

Instant: TypeAlias = datetime | date | str
"""An instant that is sent: a ``datetime`` with a zone, a ``date``, or a text of RFC 3339."""

if TYPE_CHECKING:
{words}
else:
{decoded}


class _Answer(Struct, frozen=True, kw_only=True):
    """A part of an answer."""


class Page(Struct, Generic[T], frozen=True, kw_only=True):
    """A page of a list."""

    data: list[T]
    meta: Meta


class _Published:
    """The mark of events, by which decoding knows them."""

    __slots__ = ()


class _Event(Struct, _Published, frozen=True, kw_only=True):
    """The envelope that all events have."""

    id: str
    occurred_at: datetime
    recorded_at: datetime
    position: int
    """The place in the log, which rises from event to event."""
    actor: Actor
    reported_by: str
    """The credential that reported the event."""
    subject: Subject
    service_line_id: str | None = None
    organization_id: str | None = None
    workspace_id: str | None = None
    causation_id: str | None = None
    """The event that caused this one."""
    fact: FactReference | None = None
    """The fact that the event records, by source and id."""


class OtherEvent(_Event, frozen=True, kw_only=True):
    """An event of a type that this version of the client does not know."""

    type: str
    payload: dict[str, Any]


'''

TAIL = """{objects}

if TYPE_CHECKING:
    Event: TypeAlias = (
        {every}
    )
    \"\"\"Any published event, told apart by its ``type``.\"\"\"
else:
    Event = _Published

EVENTS: dict[str, type[_Event]] = {{
{rows}
}}
"""
