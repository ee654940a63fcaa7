"""Operations: their names and security, their parameters and bodies, their headers and problems.

Several words of a parameter are an array, and no parameter is null. Each body is a component, with
an example.
"""

import re
from typing import Any

from ledger.api.document.schemas import Schema, operations_of, without_titles
from ledger.api.models import SCHEMAS, reference
from ledger.api.problems import MEDIA_TYPE, PHRASES
from ledger.api.reading import LONGEST_WORD, OR

_POSITION: Schema = {"type": "integer", "minimum": 0}
_TEXT: Schema = {"type": "string"}

HEADERS: dict[str, Schema] = {
    "Ledger-Position": {
        "description": "The position of the log that the answer shows. Send it back as"
        " `Ledger-Min-Position`, and the next read shows at least everything up to it.",
        "schema": _POSITION,
    },
    "X-Request-Id": {
        "description": "The request's id: its own `X-Request-Id`, or a new one.",
        "schema": _TEXT,
    },
    "ETag": {
        "description": "The version of the answer; send it as `If-None-Match`.",
        "schema": _TEXT,
    },
    "Idempotency-Replayed": {
        "description": "`true` if the answer is that of an earlier request under the same"
        " `Idempotency-Key`.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Retry-After": {
        "description": "The seconds after which to send the request again.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "WWW-Authenticate": {"description": "How to authenticate: `Bearer`.", "schema": _TEXT},
    "Content-Disposition": {"description": "The file's name.", "schema": _TEXT},
}
"""The headers that clients act on, by name. The contract lists those for caches and browsers."""

_EVERY = ("Ledger-Position", "X-Request-Id")
_FURTHER = {
    "401": ("WWW-Authenticate",),
    "409": ("Idempotency-Replayed",),
    "422": ("Idempotency-Replayed",),
    "429": ("Retry-After",),
    "503": ("Retry-After",),
    "304": ("ETag",),
}
_FILES = ("application/x-ndjson", "text/csv")

_PATTERN = re.compile(r"\^\(\?:(?P<words>[^()]+)\)\(\?:,\(\?:(?P=words)\)\)\*\$")
"""The patterns that ``any_of`` makes."""

_IF_NONE_MATCH: Schema = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` of an earlier answer: if it is still valid, the answer is 304.",
    "schema": {"type": "string"},
}


def name_operations(document: Schema, names: dict[tuple[str, str], str]) -> None:
    """Name each operation as its function is named: a verb, then what it is about."""
    seen: dict[str, str] = {}
    for path, method, operation in operations_of(document):
        name = operation["operationId"] = names[path, method]
        if seen.setdefault(name, path) != path:
            raise ValueError(f"{path} and {seen[name]} are both called {name}: rename a function")
        # Without an explicit declaration, linters take a route without a token for a mistake.
        operation.setdefault("security", [])


def name_bodies(document: Schema) -> None:
    """Put the schema of each command's body into a component, and show an example of it."""
    schemas = document["components"]["schemas"]
    for path, method, operation in operations_of(document):
        for media in operation.get("requestBody", {}).get("content", {}).values():
            if "$ref" not in media["schema"]:
                media["schema"] = _body_component(schemas, media["schema"], f"{method} {path}")
            if "examples" not in media:
                media["example"] = _example(schemas[media["schema"]["$ref"].removeprefix(SCHEMAS)])


def _body_component(schemas: Schema, schema: Schema, place: str) -> Schema:
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


def describe_parameters(document: Schema) -> None:
    for _, _, operation in operations_of(document):
        if "304" in operation["responses"]:
            operation.setdefault("parameters", []).append(dict(_IF_NONE_MATCH))
        for parameter in operation.get("parameters", []):
            _describe_parameter(parameter)


def _describe_parameter(parameter: dict[str, Any]) -> None:
    schema = _not_null(parameter["schema"])
    description = parameter.get("description", schema.get("description", ""))
    schema.pop("description", None)
    examples = schema.pop("examples", None)
    if parameter["in"] == "query" and OR in str(description):
        parameter |= {"style": "form", "explode": False}
        schema = _array(schema)
    elif examples and parameter["required"]:
        parameter["example"] = examples[0]
    elif examples:
        # As an `example`, /docs would send it along with every request that a reader tries.
        parameter["description"] = f"{description} For example `{examples[0]}`."
    parameter["schema"] = schema


def _not_null(schema: Schema) -> Schema:
    """The schema without the alternative of null: a parameter that is not sent is absent."""
    schema = without_titles(schema)
    alternatives = [part for part in schema.pop("anyOf", []) if part != {"type": "null"}]
    if len(alternatives) == 1:
        return _not_null(alternatives[0]) | schema
    return schema | ({"anyOf": alternatives} if alternatives else {})


def _array(schema: Schema) -> Schema:
    """The words of a parameter as an array, which is sent with commas between the words."""
    match = _PATTERN.fullmatch(schema.get("pattern", ""))
    if match is None:
        item = {"type": "string", "minLength": 1, "maxLength": LONGEST_WORD}
        return {"type": "array", "items": item, "minItems": 1}
    words = [re.sub(r"\\(.)", r"\1", word) for word in match["words"].split("|")]
    item = {"type": "string", "enum": words}
    return {"type": "array", "items": item, "minItems": 1}


def describe_answers(document: Schema) -> None:
    """Declare the headers of answers; put each kind of problem into a component."""
    components = document["components"]
    components["headers"] = {_component(name): header for name, header in HEADERS.items()}
    problems = components["responses"] = {}
    for _, _, operation in operations_of(document):
        responses = operation["responses"]
        for status, response in responses.items():
            if status == "304" or MEDIA_TYPE in response.get("content", {}):
                name = "NotModified" if status == "304" else _problem(status)
                problems[name] = response | {"headers": _headers(_FURTHER.get(status, ()))}
                if status != "304":
                    problems[name]["description"] = PHRASES[int(status)]
                responses[status] = {"$ref": f"#/components/responses/{name}"}
            else:
                further = _further(operation, response)
                response["headers"] = response.get("headers", {}) | _headers(further)


def _problem(status: str) -> str:
    return PHRASES[int(status)].title().replace(" ", "") + "Problem"


def _further(operation: dict[str, Any], response: dict[str, Any]) -> list[str]:
    parameters = {parameter["name"] for parameter in operation.get("parameters", [])}
    further = []
    if "If-None-Match" in parameters:
        further.append("ETag")
    if "Idempotency-Key" in parameters:
        further.append("Idempotency-Replayed")
    if any(media in response.get("content", {}) for media in _FILES):
        further.append("Content-Disposition")
    return further


def _headers(further: Any) -> dict[str, Schema]:
    return {
        name: {"$ref": f"#/components/headers/{_component(name)}"} for name in (*_EVERY, *further)
    }


def _component(header: str) -> str:
    return header.replace("-", "")
