"""Each enumeration is one component, by the name of the words that it lists."""

from typing import Any, get_args

from ledger.api.document.schemas import Schema, operations_of, rewrite, rewritten
from ledger.api.models import camel, reference
from ledger.api.routes.audit import WORDS
from ledger.domain.api_key import Permission
from ledger.domain.endpoint import EVERY_TYPE, DisabledReason
from ledger.domain.health import SignalName, SignalStatus
from ledger.domain.values import (
    ActorType,
    Cause,
    ExecutionModel,
    HoldName,
    ProductLine,
    RunStatus,
    State,
    TriggerType,
)
from ledger.language.published import TYPES

_NAMED: dict[str, tuple[str, ...]] = {
    "State": get_args(State),
    "ExecutionModel": get_args(ExecutionModel),
    "ProductLine": get_args(ProductLine),
    "Cause": get_args(Cause),
    "RunStatus": get_args(RunStatus),
    "HoldName": get_args(HoldName),
    "SignalName": get_args(SignalName),
    "SignalStatus": get_args(SignalStatus),
    "ActorType": get_args(ActorType),
    "TriggerType": get_args(TriggerType),
    "DisabledReason": get_args(DisabledReason),
    "Permission": get_args(Permission),
    "EventType": tuple(TYPES),
    "EventTypeOrEvery": (*TYPES, EVERY_TYPE),
    "AuditAction": WORDS,
}
"""The enumerations that stand in several places. Any other is named after its only place."""


class Enumerations:
    """The components of enumerations, which come to be while the document is walked through."""

    def __init__(self) -> None:
        self._names = {frozenset(words): name for name, words in _NAMED.items()}
        self.schemas: dict[str, Schema] = {}

    def name_of(self, words: list[str], place: str) -> str:
        """The component of these words, which is named after the place if it is a new one."""
        name = self._names.setdefault(frozenset(words), place)
        listed = list(_NAMED.get(name, words))
        known = self.schemas.setdefault(name, {"type": "string", "enum": listed})
        if set(known["enum"]) != set(words):
            raise ValueError(f"the enumeration {name} has other words elsewhere: name one of them")
        return name

    def named(self, schema: Schema, place: str) -> Schema:
        """The schema with a reference in the place of its enumeration."""
        if "enum" not in schema:
            return schema
        words = [word for word in schema["enum"] if word is not None]
        rest = {key: value for key, value in schema.items() if key not in ("enum", "type")}
        if len(words) == 1:
            return rest | {"type": "string", "const": words[0]}
        found: Any = reference(self.name_of(words, place))
        if len(words) < len(schema["enum"]):
            return rest | {"anyOf": [found, {"type": "null"}]}
        named: Schema = found | rest
        return named

    def within(self, schema: Schema, place: str) -> Schema:
        new: Schema = rewritten(schema, lambda part: self.named(part, place))
        return new


def name_all(document: Schema) -> None:
    """Put each enumeration of the document into a component."""
    enumerations, schemas = Enumerations(), document["components"]["schemas"]
    for name, schema in schemas.items():
        fields = {
            field: enumerations.within(part, camel(name, field))
            for field, part in schema.get("properties", {}).items()
        }
        schemas[name] = schema | {"properties": fields} if fields else schema
    for _, _, operation in operations_of(document):
        for parameter in operation.get("parameters", []):
            at = camel(parameter["name"])
            parameter["schema"] = enumerations.within(parameter["schema"], at)
    rewrite(document, lambda schema: enumerations.named(schema, "Word"))
    schemas |= enumerations.schemas
