"""The published language, described: one JSON Schema a type (contract 5)."""

from functools import cache
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Request, Response

from ledger.api import feed_models
from ledger.api.access.authentication import Authenticated
from ledger.api.documentation import FEED_ERRORS, refusals
from ledger.api.lean import LeanRoute, NoParameters, needs
from ledger.api.reading import services_of
from ledger.api.replies import answer
from ledger.domain.errors import NotFound
from ledger.language.published import LANGUAGE_VERSION, TYPES, Payload

router = APIRouter(prefix="/v1/event-types", tags=["feeds"], route_class=LeanRoute)

_encode = msgspec.json.Encoder().encode

EVENT_SCHEMA = {"$ref": "#/components/schemas/Event"}
"""Where the OpenAPI document describes an event of any type."""


def component_of(type_: str) -> str:
    """A type's schema in the OpenAPI document: ``run.started`` is ``RunStartedEvent``."""
    return "".join(word.capitalize() for word in type_.replace(".", "_").split("_")) + "Event"


@cache
def envelope_schema(type_: str, definitions: str = "#/$defs") -> tuple[dict[str, Any], Any]:
    """The schema of one type's envelope, and the definitions that it refers to there."""
    payload = TYPES[type_]
    (ref,), components = msgspec.json.schema_components(
        [payload], ref_template=definitions + "/{name}Payload"
    )
    components = {f"{name}Payload": _whole(schema) for name, schema in components.items()}
    envelope = feed_models.EventModel.model_json_schema(ref_template=definitions + "/{model}")
    components |= envelope.pop("$defs", {})
    envelope["title"] = type_
    envelope["description"] = _about(payload)
    envelope["properties"]["type"] = {"const": type_}
    envelope["properties"]["payload"] = ref
    return _open(envelope), {name: _open(schema) for name, schema in components.items()}


def describe(schemas: dict[str, Any]) -> None:
    """Put every type's schema into the OpenAPI document's, and let the feed's items be these."""
    references = {type_: f"#/components/schemas/{component_of(type_)}" for type_ in TYPES}
    for type_ in TYPES:
        envelope, definitions = envelope_schema(type_, "#/components/schemas")
        schemas |= definitions | {component_of(type_): envelope}
    one = {
        "oneOf": [{"$ref": reference} for reference in references.values()],
        "discriminator": {"propertyName": "type", "mapping": references},
    }
    schemas["Event"] = one
    schemas["EventPage"]["properties"]["data"]["items"] = EVENT_SCHEMA
    schemas["EventAnswer"]["properties"]["data"] = EVENT_SCHEMA


def _whole(schema: dict[str, Any]) -> dict[str, Any]:
    """Every key is always there, whatever may be left out where a value is made."""
    properties = schema.get("properties")
    if properties is None:
        return schema
    plain = {name: {k: v for k, v in p.items() if k != "default"} for name, p in properties.items()}
    return schema | {"properties": plain, "required": sorted(plain)}


def _open(schema: dict[str, Any]) -> dict[str, Any]:
    """Other keys are let pass: a version adds fields, and a webhook its ``sequence``."""
    return {name: value for name, value in schema.items() if name != "additionalProperties"}


def _about(payload: type[Payload]) -> str:
    return " ".join((payload.__doc__ or "").split())


@router.get(
    "",
    summary="List event types",
    openapi_extra=needs("read"),
    responses={200: {"model": feed_models.EventTypeList}, **refusals(401, 403, 422, 503)},
)
async def list_event_types(request: Request, principal: Authenticated, _: NoParameters) -> Response:
    """Every type that feeds and webhooks carry, and where its JSON Schema is."""
    types = [
        {
            "type": type_,
            "version": LANGUAGE_VERSION,
            "description": _about(payload),
            "schema": f"{router.prefix}/{type_}",
        }
        for type_, payload in TYPES.items()
    ]
    return answer(_encode({"data": types}).decode(), services_of(request).positions.last_heard)


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
    principal: Authenticated,
    type: Annotated[str, Path(description="A type.", examples=["execution.blocked"])],
    _: NoParameters,
) -> Response:
    """One type's envelope and payload. Within a version fields are only added."""
    if type not in TYPES:
        raise NotFound("No such event type.")
    schema, definitions = envelope_schema(type)
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{router.prefix}/{type}",
        "version": LANGUAGE_VERSION,
        **schema,
        "$defs": definitions,
    }
    response = answer(_encode(document).decode(), services_of(request).positions.last_heard)
    response.headers["content-type"] = "application/schema+json"
    return response
