"""Walks through the schemas of the document, and the two kinds of objects: sent and answered."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from ledger.api.models import SCHEMAS

Schema = dict[str, Any]
Change = Callable[[Schema], Schema]

_ONE = ("items", "additionalProperties", "propertyNames", "not", "if", "then", "else", "contains")
_SEVERAL = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs")


def rewritten(schema: Any, change: Change) -> Any:
    """The schema with a change made in it and in every schema within, the innermost first."""
    if not isinstance(schema, dict):
        return schema
    new = dict(schema)
    for key in _ONE:
        if key in new:
            new[key] = rewritten(new[key], change)
    for key in _SEVERAL:
        if key in new:
            new[key] = [rewritten(part, change) for part in new[key]]
    for key in _NAMED:
        if key in new:
            new[key] = {name: rewritten(part, change) for name, part in new[key].items()}
    return change(new)


def operations_of(document: Schema) -> Iterator[tuple[str, str, Schema]]:
    """(path, method, operation) of each operation."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def rewrite(document: Schema, change: Change) -> None:
    """Make a change in every schema of the document."""
    schemas = document["components"]["schemas"]
    for name, schema in schemas.items():
        schemas[name] = rewritten(schema, change)
    for _, _, operation in operations_of(document):
        places = [*operation.get("parameters", [])]
        for body in (operation.get("requestBody", {}), *operation["responses"].values()):
            places += body.get("content", {}).values()
        for place in places:
            if "schema" in place:
                place["schema"] = rewritten(place["schema"], change)


def reached(document: Schema, *parts: Any) -> set[str]:
    """The names of the component schemas to which the parts of the document lead."""
    schemas, found = document["components"]["schemas"], set[str]()
    waiting = [json.dumps(part) for part in parts]
    while waiting:
        text = waiting.pop()
        for piece in text.split(f'"{SCHEMAS}')[1:]:
            name = piece.partition('"')[0]
            if name not in found:
                found.add(name)
                waiting.append(json.dumps(schemas[name]))
    return found


def sent(document: Schema) -> set[str]:
    """The names of the schemas of requests."""
    return reached(
        document,
        *(
            [operation.get("requestBody"), operation.get("parameters")]
            for _, _, operation in operations_of(document)
        ),
    )


def without_titles(schema: Schema) -> Schema:
    """The schema without its title: generators make a class for each title."""
    return {key: value for key, value in schema.items() if key != "title"}


def as_answer(schema: Schema) -> Schema:
    """The schema open to other keys: later versions of the service add keys to answers."""
    if schema.get("additionalProperties") is not False:
        return schema
    return {key: value for key, value in schema.items() if key != "additionalProperties"}


def as_input(schema: Schema) -> Schema:
    """The schema with its fields' defaults as words.

    Generators of TypeScript require each field that has a default.
    """
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
