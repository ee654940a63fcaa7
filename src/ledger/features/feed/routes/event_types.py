"""The published language: a JSON Schema for each event type (contract, Feeds)."""

from functools import cache
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
from fastapi import Path, Request, Response

from ledger.engine.http.lean import Router, needs, read_route
from ledger.engine.http.models import SCHEMAS, as_answer, camel, one_of, reference
from ledger.engine.http.problems import FEED_ERRORS, refusals
from ledger.engine.http.reading import services_of
from ledger.engine.http.replies import AnswerOf, answer
from ledger.engine.values.errors import NotFound
from ledger.engine.values.principal import Principal
from ledger.engine.values.recorded import Actor
from ledger.engine.values.rendering import doc, json_text
from ledger.features.feed.envelopes import Envelope, FactReference, Subject
from ledger.features.feed.published import LANGUAGE_VERSION, TYPES, Payload


class PublishedType(msgspec.Struct):
    """A type of the published language."""

    type: str
    version: int
    description: str
    schema: Annotated[str, doc("The path of the type's JSON Schema.")]


def component_of(type_: str) -> str:
    """The name of a type's schema in OpenAPI: ``RunStartedEvent`` for ``run.started``."""
    return camel(type_, "event")


@cache
def schemas() -> dict[str, Any]:
    """OpenAPI's schemas of the events of each type, of their payloads, and of any event."""
    types = [Envelope, *TYPES.values()]
    _, parts = msgspec.json.schema_components(types, ref_template=SCHEMAS + "{name}")
    base = parts.pop("Envelope")
    # A fact's data may have the same name as the event's payload.
    schemas = {f"{cls.__name__}Payload": parts.pop(cls.__name__) for cls in TYPES.values()}
    for type_, payload in TYPES.items():
        properties = {"type": {"const": type_}, "payload": reference(f"{payload.__name__}Payload")}
        envelope = {"description": _about(payload), "properties": base["properties"] | properties}
        schemas[component_of(type_)] = base | envelope
    events = one_of("type", {type_: component_of(type_) for type_ in TYPES})
    return parts | schemas | {"Event": events}


router = Router(
    "/v1/event-types",
    "feeds",
    words={"EventType": tuple(TYPES)},
    answers=schemas,
)


@cache
def _document(type_: str) -> dict[str, Any]:
    (payload,), parts = msgspec.json.schema_components(
        [TYPES[type_]], ref_template=_DEFINITIONS + "{name}Payload"
    )
    envelope = _served(Envelope, type_) | {"description": _about(TYPES[type_])}
    envelope["properties"] |= {"type": {"const": type_}, "payload": payload}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{router.prefix}/{type_}",
        "version": LANGUAGE_VERSION,
        **envelope,
        "$defs": {f"{name}Payload": as_answer(part) for name, part in parts.items()}
        | {name: _served(cls, name) for name, cls in _PARTS.items()},
    }


_DEFINITIONS = "#/$defs/"
_PARTS: dict[str, type[msgspec.Struct]] = {
    "ActorModel": Actor,
    "FactReference": FactReference,
    "SubjectModel": Subject,
}
"""The parts of an envelope, by their names in the documents of the types."""


def _served(cls: type[msgspec.Struct], title: str) -> dict[str, Any]:
    """A struct's schema in the form in which version 1 of the language first served it."""
    _, parts = msgspec.json.schema_components([cls], ref_template=_DEFINITIONS + "{name}Model")
    text = json_text(parts[cls.__name__]).replace("FactReferenceModel", "FactReference")
    schema, hints = msgspec.json.decode(text), get_type_hints(cls)
    properties = dict[str, Any]()
    for name, part in schema["properties"].items():
        if "enum" in part:
            part = {"enum": list(get_args(hints[name])), "type": "string"}
        if "$ref" not in str(part):
            part |= {"title": name.replace("_", " ").title()}
        properties[name] = dict(sorted(part.items()))
    described = {"description": schema["description"], "properties": properties}
    return described | {"required": schema["required"], "title": title, "type": "object"}


def _about(payload: type[Payload]) -> str:
    return " ".join((payload.__doc__ or "").split())


@read_route(
    router,
    "",
    AnswerOf[list[PublishedType]],
    refusals(401, 403, 422, 429, 503),
    summary="List event types",
)
async def list_event_types(request: Request, principal: Principal) -> Response:
    """List the event types of feeds and webhooks, with the paths of their JSON Schemas."""
    types = [
        PublishedType(type_, LANGUAGE_VERSION, _about(payload), f"{router.prefix}/{type_}")
        for type_, payload in TYPES.items()
    ]
    return answer(json_text(AnswerOf(types)), services_of(request).positions.last_announced)


@router.get(
    "/{type}",
    summary="Show a type's JSON Schema",
    openapi_extra=needs("read"),
    response_class=Response,
    responses={
        200: {
            "description": "The JSON Schema (2020-12) of the type's envelope",
            "content": {"application/schema+json": {"schema": {"type": "object"}}},
        },
        **FEED_ERRORS,
    },
)
async def show_event_type(
    request: Request,
    principal: Principal,
    type: Annotated[
        str,
        Path(
            description="A type.",
            examples=["execution.blocked"],
            json_schema_extra={"enum": list(TYPES)},
        ),
    ],
) -> Response:
    """Show a type's envelope and payload. Within a version fields are only added."""
    if type not in TYPES:
        raise NotFound("No such event type.")
    response = answer(json_text(_document(type)), services_of(request).positions.last_announced)
    response.headers["content-type"] = "application/schema+json"
    return response
