"""The published language: a JSON Schema for each event type (contract, Feeds)."""

from functools import cache
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Request, Response

from ledger.api import feed_models
from ledger.api.access.authentication import Authenticated
from ledger.api.lean import LeanRoute, NoParameters, needs
from ledger.api.models import SCHEMAS, camel, one_of, reference
from ledger.api.problems import FEED_ERRORS, refusals
from ledger.api.reading import services_of
from ledger.api.replies import answer
from ledger.domain.errors import NotFound
from ledger.language.published import LANGUAGE_VERSION, TYPES, Payload

router = APIRouter(prefix="/v1/event-types", tags=["feeds"], route_class=LeanRoute)

_encode = msgspec.json.Encoder().encode

EVENT_SCHEMA = reference("Event")
"""A reference to the OpenAPI document's schema of an event of any type."""


def component_of(type_: str) -> str:
    """The name of a type's schema in OpenAPI: ``RunStartedEvent`` for ``run.started``."""
    return camel(type_, "event")


@cache
def envelope_schema(type_: str, definitions: str = "#/$defs") -> tuple[dict[str, Any], Any]:
    """The schema of a type's envelope, and the definitions to which the schema refers."""
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
    """Add the schema of every type to OpenAPI's, and make the feed's items refer to them."""
    for type_ in TYPES:
        envelope, definitions = envelope_schema(type_, SCHEMAS.removesuffix("/"))
        schemas |= definitions | {component_of(type_): envelope}
    schemas["Event"] = one_of("type", {type_: component_of(type_) for type_ in TYPES})
    schemas["EventPage"]["properties"]["data"]["items"] = EVENT_SCHEMA
    schemas["EventAnswer"]["properties"]["data"] = EVENT_SCHEMA


def _whole(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with all keys required: a payload has them even if they have defaults."""
    properties = schema.get("properties")
    if properties is None:
        return schema
    plain = {name: {k: v for k, v in p.items() if k != "default"} for name, p in properties.items()}
    return schema | {"properties": plain, "required": sorted(plain)}


def _open(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema open to other keys: versions add fields, webhooks add ``sequence``."""
    return {name: value for name, value in schema.items() if name != "additionalProperties"}


def _about(payload: type[Payload]) -> str:
    return " ".join((payload.__doc__ or "").split())


@router.get(
    "",
    summary="List event types",
    openapi_extra=needs("read"),
    responses={200: {"model": feed_models.EventTypeList}, **refusals(401, 403, 422, 429, 503)},
)
async def list_event_types(request: Request, principal: Authenticated, _: NoParameters) -> Response:
    """List the event types of feeds and webhooks, with the paths of their JSON Schemas."""
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
    type: Annotated[
        str,
        Path(
            description="A type.",
            examples=["execution.blocked"],
            json_schema_extra={"enum": list(TYPES)},
        ),
    ],
    _: NoParameters,
) -> Response:
    """Show a type's envelope and payload. Within a version fields are only added."""
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
