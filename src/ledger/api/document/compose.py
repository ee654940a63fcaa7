"""The whole OpenAPI document, step by step."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from ledger.api.document import texts
from ledger.api.document.enums import name_all
from ledger.api.document.operations import (
    describe_answers,
    describe_parameters,
    name_bodies,
    name_operations,
)
from ledger.api.document.schemas import (
    Schema,
    as_answer,
    as_input,
    operations_of,
    reached,
    rewrite,
    rewritten,
    sent,
    without_titles,
)
from ledger.api.fact_schema import FACT_SCHEMAS
from ledger.api.models import TEMPLATE, FactBatchAnswer, Problem
from ledger.api.routes import event_types


def compose(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary="Product lines report facts; reads tell the state of work, now and in the past.",
        description=texts.ABOUT,
        contact=texts.CONTACT,
        license_info=texts.LICENCE,
        servers=[{"url": app.state.services.root_path or "/", "description": "This service"}],
        routes=app.routes,
    )
    _add_schemas(document["components"]["schemas"])
    names = {
        (route.path, method.lower()): route.endpoint.__name__
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    name_operations(document, names)
    name_bodies(document)
    describe_parameters(document)
    rewrite(document, without_titles)
    name_all(document)
    _suit_directions(document)
    describe_answers(document)
    document["webhooks"] = texts.webhooks()
    document["components"]["requestBodies"] = {"WebhookMessage": texts.MESSAGE}
    document["tags"] = _tags(document)
    _keep_what_is_used(document)
    return document


def _add_schemas(schemas: Schema) -> None:
    """Add the schemas of the bodies and answers that the routes parse or render themselves."""
    for model in (Problem, FactBatchAnswer):
        schema = model.model_json_schema(ref_template=TEMPLATE)
        schemas |= schema.pop("$defs", {}) | {model.__name__: schema}
    schemas |= FACT_SCHEMAS
    event_types.describe(schemas)


def _suit_directions(document: Schema) -> None:
    """Rid the objects that are sent of defaults, and open those that are answered."""
    schemas, closed = document["components"]["schemas"], sent(document)
    for name, schema in schemas.items():
        schemas[name] = rewritten(schema, as_input if name in closed else as_answer)


def _tags(document: Schema) -> list[dict[str, str]]:
    used = {tag for _, _, operation in operations_of(document) for tag in operation["tags"]}
    if unknown := used - texts.TAGS.keys():
        raise ValueError(f"describe the tags {sorted(unknown)} in document/texts.py")
    return [{"name": name, "description": texts.TAGS[name]} for name in texts.TAGS if name in used]


def _keep_what_is_used(document: Schema) -> None:
    """Drop the schemas that nothing refers to; give each of the others a title of its own.

    Client generators name classes by these titles, and fail if two titles are equal.
    """
    components = document["components"]
    used = reached(
        document, document["paths"], components["responses"], components["requestBodies"]
    )
    components["schemas"] = {
        name: {**schema, "title": name}
        for name, schema in sorted(components["schemas"].items())
        if name in used
    }
