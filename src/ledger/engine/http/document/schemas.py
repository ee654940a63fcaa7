"""The named schemas of the document, added as the routes refer to them.

An answer's schema comes from its struct; a body's or parameter's from the model that checks it.
Each enumeration is one component, by the name of the words that it lists.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

import msgspec
from pydantic import BaseModel

from ledger.engine.http.models import SCHEMAS, TEMPLATE, as_answer, camel, reference
from ledger.engine.values.values import (
    ActorType,
    Cause,
    ExecutionModel,
    HoldName,
    ProductLine,
    RunStatus,
    State,
    TriggerType,
)

Schema = dict[str, Any]
Change = Callable[[Schema], Schema]

_NAMED: dict[str, tuple[str, ...]] = {
    "State": get_args(State),
    "ExecutionModel": get_args(ExecutionModel),
    "ProductLine": get_args(ProductLine),
    "Cause": get_args(Cause),
    "RunStatus": get_args(RunStatus),
    "HoldName": get_args(HoldName),
    "ActorType": get_args(ActorType),
    "TriggerType": get_args(TriggerType),
    "ExportFormat": ("jsonl", "csv"),
}
"""Enumerations used in several places, or whose place alone says too little. Routers name those of
their feature. Any other is named after its only place."""

_TELLING = ("kind", "type")
"""Discriminator fields: some generators know their word by ``enum`` alone."""

_OF = re.compile(r"(Answer|Page)Of_(list_)?(?:\w+\.)*(\w+?)_+$")
_ONE = ("items", "additionalProperties", "propertyNames", "if", "then", "else", "contains")
_SEVERAL = ("anyOf", "oneOf", "allOf", "prefixItems")


class Schemas:
    """The component schemas of the document."""

    def __init__(
        self,
        answers: set[Any],
        words: Mapping[str, tuple[str, ...]],
        unions: Mapping[str, str],
    ) -> None:
        """``answers`` are types of answers, ``words`` the enumerations of features, by name.

        ``unions`` names alternatives by the first of them: some generators make one class of all
        the fields of unnamed alternatives.
        """
        self.components: dict[str, Schema] = {}
        self._words, self._unions = {**_NAMED, **words}, unions
        self._names = {frozenset(words): name for name, words in self._words.items()}
        types = sorted(answers, key=str)
        references, parts = msgspec.json.schema_components(
            types, ref_template=TEMPLATE.format(model="{name}")
        )
        self._answers = dict(zip(types, references, strict=True))
        # Events are described by their types.
        del parts["Envelope"]
        self.add(parts)

    def answer(self, *types: Any) -> Schema:
        found = [self.placed(self._answers[type_], "") for type_ in types]
        return found[0] if len(found) == 1 else {"anyOf": found}

    def body(self, model: type[BaseModel]) -> Schema:
        schema = model.model_json_schema(ref_template=TEMPLATE)
        self.add({**schema.pop("$defs", {}), schema["title"]: schema}, as_input)
        return reference(schema["title"])

    def add(self, parts: Mapping[str, Schema], suited: Change = as_answer) -> None:
        """Add schemas, adapted by ``suited``. Raises ValueError for a name that is given twice."""
        for name, part in ((self._short(name), part) for name, part in parts.items()):
            schema = self.placed(part, name, suited) | {"title": name}
            if self.components.setdefault(name, schema) != schema:
                raise ValueError(f"another schema is called {name} too: rename the class")

    def placed(self, schema: Schema, location: str, suited: Change = dict) -> Schema:
        """Replace each enumeration in the schema by a reference."""
        new: Schema = {}
        for key, value in schema.items():
            if key in _ONE and isinstance(value, dict):
                value = self.placed(value, location, suited)
            elif key in _SEVERAL:
                value = [self.placed(part, location, suited) for part in value]
            elif key == "properties":
                value = {
                    name: self.placed(part, camel(location, name), suited)
                    for name, part in value.items()
                }
                for part in (value[name] for name in _TELLING if "const" in value.get(name, ())):
                    part["enum"] = [part["const"]]
            elif key == "$ref":
                value = self._short(value)
            new[key] = value
        suitable = suited(new)
        suitable.pop("title", None)  # generators make a class for each title
        return self._named(suitable, location)

    def _named(self, schema: Schema, location: str) -> Schema:
        if "discriminator" in schema:
            return self._union(schema)
        if "enum" not in schema:
            typed = {"type": "string"} if "const" in schema else {}
            return typed | schema
        words = [word for word in schema["enum"] if word is not None]
        rest = {key: value for key, value in schema.items() if key not in ("enum", "type")}
        if len(words) == 1:
            return rest | {"type": "string", "const": words[0]}
        name = self._names.setdefault(frozenset(words), location)
        listed = list(self._words.get(name, words))
        existing = self.components.setdefault(
            name, {"type": "string", "enum": listed, "title": name}
        )
        if set(existing.get("enum", ())) != set(words):
            raise ValueError(f"the enumeration {name} has other words elsewhere: name one of them")
        if len(words) < len(schema["enum"]):
            return rest | {"anyOf": [reference(name), {"type": "null"}]}
        return reference(name) | rest

    def _union(self, schema: Schema) -> Schema:
        of = "oneOf" if "oneOf" in schema else "anyOf"
        name = self._unions.get(schema[of][0]["$ref"].removeprefix(SCHEMAS))
        if name is None:
            return schema
        union = {"oneOf": schema[of], "discriminator": schema["discriminator"]}
        self.components[name] = union | {"title": name}
        rest = {key: value for key, value in schema.items() if key not in (of, "discriminator")}
        return reference(name) | rest

    def _short(self, name: str) -> str:
        """``ShownRunPage`` for msgspec's ``PageOf[ShownRun]``; ``StatePair`` for a pair."""
        if "Pair_" in name:
            words = frozenset(re.findall("[a-z]+", name.partition("Literal")[2]))
            return SCHEMAS * ("/" in name) + f"{self._names[words]}Pair"
        short = _OF.sub(lambda found: found[3] + ("List" if found[2] else "") + found[1], name)
        return re.sub(r"\bEnvelope(?=Page$|Answer$|$)", "Event", short)


def as_input(schema: Schema) -> Schema:
    """Describe defaults in words: TypeScript generators require each field that has a default."""
    if "properties" not in schema:
        return schema
    fields = {name: _without_default(field) for name, field in schema["properties"].items()}
    return schema | {"properties": fields}


def _without_default(field: Schema) -> Schema:
    if "default" not in field:
        return field
    new = {key: value for key, value in field.items() if key != "default"}
    if (default := field["default"]) is None:
        return new
    words = f"By default `{json.dumps(default)}`."
    return new | {"description": " ".join(filter(None, [field.get("description"), words]))}
