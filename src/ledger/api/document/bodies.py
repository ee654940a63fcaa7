"""The bodies of requests: each is a component, with an example."""

from typing import Any

from ledger.api.document.schemas import Schema, operations_of
from ledger.api.models import SCHEMAS, reference


def name_bodies(document: Schema) -> None:
    """Put the schema of each command's body into a component, and show an example of it."""
    schemas = document["components"]["schemas"]
    for path, method, operation in operations_of(document):
        for media in operation.get("requestBody", {}).get("content", {}).values():
            if "$ref" not in media["schema"]:
                media["schema"] = _component(schemas, media["schema"], f"{method} {path}")
            if "examples" not in media:
                media["example"] = _example(schemas[media["schema"]["$ref"].removeprefix(SCHEMAS)])


def _component(schemas: Schema, schema: Schema, place: str) -> Schema:
    schema = dict(schema)
    parts = {**schema.pop("$defs", {}), schema["title"]: schema}
    for name, part in parts.items():
        if schemas.setdefault(name, part) != part:
            raise ValueError(f"{place}: another schema is called {name} too: rename the model")
    return reference(schema["title"])


def _example(schema: Schema) -> dict[str, Any]:
    """An example of the body, from the examples of its fields."""
    shown = {
        name: field["examples"][0]
        for name, field in schema.get("properties", {}).items()
        if "examples" in field
    }
    if missing := set(schema.get("required", ())) - shown.keys():
        raise ValueError(f"{schema['title']}: give examples=[…] to the fields {sorted(missing)}")
    return shown
