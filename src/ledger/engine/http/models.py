"""Shared parts of the API's descriptions: names of schemas, fields, and the bodies of commands."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, NamedTuple, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_after_validator_function

from ledger.engine.values.values import LABEL, OMITTED, TEXT, is_plain, parse_instant

W = TypeVar("W", bound=str)

SCHEMAS = "#/components/schemas/"

TEMPLATE = SCHEMAS + "{model}"


def reference(name: str) -> dict[str, Any]:
    return {"$ref": SCHEMAS + name}


def one_of(field: str, names: Mapping[str, str]) -> dict[str, Any]:
    """Alternatives by a discriminator field: value → name of a schema."""
    references = {value: SCHEMAS + name for value, name in names.items()}
    return {
        "oneOf": [{"$ref": target} for target in references.values()],
        "discriminator": {"propertyName": field, "mapping": references},
    }


def camel(*names: str) -> str:
    """The names as one name of a class: ``camel("audit_entry", "outcome")``."""
    words = "_".join(names).replace(".", "_").replace("-", "_").split("_")
    return "".join(word[:1].upper() + word[1:] for word in words)


def as_answer(schema: dict[str, Any]) -> dict[str, Any]:
    """All keys are required but UNSET and omitted ones; later versions may add others."""
    fields = schema.get("properties")
    if fields is None:
        return schema
    required = {*schema.get("required", ())}
    required |= {n for n, field in fields.items() if "default" in field and OMITTED not in field}
    plain = {
        name: {key: value for key, value in field.items() if key not in ("default", OMITTED)}
        for name, field in fields.items()
    }
    open_ = {key: value for key, value in schema.items() if key != "additionalProperties"}
    return open_ | {"properties": plain, "required": sorted(required)}


NOT_PLAIN = {
    LABEL: "must not have control characters or bidirectional controls",
    TEXT: "must not have control characters but tabs and line ends, or bidirectional controls",
}
"""The message for a text with other characters than those of the pattern."""


class Characters(NamedTuple):
    """Annotates a text of the characters of ``LABEL``, or of ``TEXT``, with a plain message."""

    pattern: str

    def __get_pydantic_core_schema__(self, kind: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(text: str) -> str:
            if not is_plain(text, self.pattern):
                raise ValueError(NOT_PLAIN[self.pattern])
            return text

        return no_info_after_validator_function(check, handler(kind))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "pattern": self.pattern}


def _instant(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("must be an RFC 3339 instant with an offset")
    return parse_instant(value)


Instant = Annotated[
    datetime, BeforeValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"})
]
MAX_LABEL = 200
Label = Annotated[str, Field(min_length=1, max_length=MAX_LABEL), Characters(LABEL)]
Written = Annotated[str, Field(min_length=1, max_length=500), Characters(TEXT)]


class CommandBody(BaseModel):
    """A command's body."""

    model_config = ConfigDict(extra="forbid", strict=True)


class EmptyBody(CommandBody):
    """A body without fields."""


class Reason(CommandBody):
    """The reason of a command."""

    reason: Annotated[Written, Field(examples=["Waits for the client's approval"])]


PausedUntil = Annotated[
    Instant | None,
    Field(
        description="When the ledger lifts the hold: in the future, at most 400 days ahead."
        " Null: it stays until the line is resumed.",
    ),
]


class Pausing(Reason):
    """The reason of a pause, and its end."""

    until: PausedUntil = None
    replace: Annotated[
        bool,
        Field(description="Whether a hold that is on gets this reason and this `until`."),
    ] = False


class OptionalReason(CommandBody):
    """The reason why a line is resumed, if a reason is given."""

    reason: Annotated[Written | None, Field(examples=["Approved"])] = None


def set_of(words: Sequence[str], alone: str) -> WithJsonSchema:
    """The schema of a set of words, or of ``alone``, the word that stands for all."""
    schema: dict[str, Any] = {
        "type": "array",
        "items": {"enum": [*words, alone]},
        "minItems": 1,
        "maxItems": len(words),
        "uniqueItems": True,
        # Client generators ignore `if`; they cannot tell alternatives of arrays apart.
        "if": {"contains": {"const": alone}},
        "then": {"maxItems": 1},
    }
    return WithJsonSchema(schema)


def distinct(words: list[W], alone: W, one: str, others: str) -> list[W]:
    """Return the words. Raises ValueError for a word that is there twice, or not ``alone``."""
    if alone in words and len(words) > 1:
        raise ValueError(f'has "{alone}" beside other {others}: "{alone}" must be the only one')
    if len(set(words)) < len(words):
        raise ValueError(f"names {one} twice")
    return words


def _no_defaults(schema: dict[str, Any]) -> None:
    """Describe a body of changes: a field that is left out has no default, and one is needed."""
    schema["minProperties"] = 1
    for field in schema["properties"].values():
        field.pop("default", None)


class Changes(CommandBody):
    """The changes of a thing; a field that is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra=_no_defaults)

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("must name at least one field to change")
        return self

    @property
    def provided(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.model_fields_set}
