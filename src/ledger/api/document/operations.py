"""Operations: their names, their security, and the headers and problems of their answers."""

from typing import Any

from ledger.api.document.schemas import Schema, operations_of
from ledger.api.problems import MEDIA_TYPE, PHRASES

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


def name_operations(document: Schema, names: dict[tuple[str, str], str]) -> None:
    """Name each operation as its function is named: a verb, then what it is about."""
    seen: dict[str, str] = {}
    for path, method, operation in operations_of(document):
        name = operation["operationId"] = names[path, method]
        if seen.setdefault(name, path) != path:
            raise ValueError(f"{path} and {seen[name]} are both called {name}: rename a function")
        # Without an explicit declaration, linters take a route without a token for a mistake.
        operation.setdefault("security", [])


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
    """The further headers of a successful answer."""
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
