"""Builds the OpenAPI document from what each route declares."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from fastapi import FastAPI, params
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from ledger.engine.http.document import texts
from ledger.engine.http.document.schemas import Schema, Schemas, as_input
from ledger.engine.http.lean import LARGEST_POSITION, LeanRoute, Router
from ledger.engine.http.models import SCHEMAS, camel, reference
from ledger.engine.http.problems import MEDIA_TYPE, PHRASES, Problem, Responses
from ledger.engine.http.reading import LONGEST_WORD, OR, ReadRequest, words_of

_MIN_POSITION: Schema = {
    "name": "Ledger-Min-Position",
    "in": "header",
    "required": False,
    "description": "Wait up to 2 s until the views have reached this position, else 503 `behind`.",
    "schema": {"type": "integer", "minimum": 0, "maximum": LARGEST_POSITION},
}
_IF_NONE_MATCH: Schema = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` of an earlier answer: if it is still valid, the answer is 304.",
    "schema": {"type": "string"},
}


def compose(app: FastAPI, routers: Sequence[Router]) -> Schema:
    """Return the document of an application; its ``routers`` name and add schemas."""
    routes = [r for r in app.routes if isinstance(r, APIRoute) and r.include_in_schema]
    answers = {
        type_
        for route in routes
        for response in route.responses.values()
        for type_ in response.get("types", ())
    }
    words = {name: each for router in routers for name, each in router.words.items()}
    unions = {first: name for router in routers for first, name in router.unions.items()}
    made = Schemas(answers | {Problem}, words, unions)
    for router in routers:
        made.add(router.sent(), as_input)
        made.add(router.answers())
    paths: dict[str, Schema] = {}
    for route in routes:
        for method in route.methods or ():
            paths.setdefault(route.path_format, {})[method.lower()] = _operation(route, made)
    used = {tag for route in routes for tag in route.tags}
    if unknown := used - texts.TAGS.keys():
        raise ValueError(f"describe the tags {sorted(map(str, unknown))} in document/texts.py")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": app.title,
            "summary": "Product lines report facts; reads tell the state of work, now and in the"
            " past.",
            "description": texts.ABOUT,
            "contact": {"name": "The operator of this service"},
            "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
            "version": app.version,
        },
        "servers": [{"url": app.state.services.root_path or "/", "description": "This service"}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(made.components.items())),
            "securitySchemes": {texts.BEARER: texts.SECURITY},
            "headers": {name.replace("-", ""): header for name, header in texts.HEADERS.items()},
            "responses": _shared_responses(routes),
            "requestBodies": {"WebhookMessage": texts.MESSAGE},
            "pathItems": {"Delivery": texts.delivery()},
        },
        # For webhooks without a reference, openapi-generator makes files that do not compile.
        "webhooks": {"event": {"$ref": "#/components/pathItems/Delivery"}},
        "tags": [{"name": name, "description": texts.TAGS[name]} for name in texts.TAGS],
    }


def _operation(route: APIRoute, made: Schemas) -> Schema:
    """The operation id is the function's name: a verb, then what it is about."""
    extra = route.openapi_extra or {}
    parameters = [*_parameters(route, made), *extra.get("parameters", ())]
    if 304 in route.responses:
        parameters.append(_IF_NONE_MATCH)
    operation: Schema = {
        "tags": route.tags,
        "summary": route.summary,
        "description": route.description,
        "operationId": route.name,
        # Without an explicit declaration, linters take a route without a token for a mistake.
        "security": [{texts.BEARER: []}] if isinstance(route, LeanRoute) else [],
        "responses": _responses(route, {each["name"] for each in parameters}, made),
    }
    if parameters:
        operation["parameters"] = parameters
    if "body" in extra:
        operation["requestBody"] = _body(extra["body"], made)
    if extra.get("x-permission") is not None:
        operation["x-permission"] = extra["x-permission"]
    return operation


class _Parameters(GenerateJsonSchema):
    """Schemas of parameters: a parameter that is not sent is absent, never null."""

    def nullable_schema(self, schema: Any) -> Schema:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: Any) -> Schema:
        if schema.get("default") is None:
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)


def _parameters(route: APIRoute, made: Schemas) -> list[Schema]:
    path, query, headers = list[Schema](), list[Schema](), list[Schema]()
    for name, parameter in inspect.signature(route.endpoint, eval_str=True).parameters.items():
        annotation = parameter.annotation
        if annotation is ReadRequest:
            headers += [_MIN_POSITION] if "GET" in (route.methods or ()) else []
        elif found := [each for each in get_args(annotation) if isinstance(each, params.Path)]:
            schema = TypeAdapter(annotation).json_schema(schema_generator=_Parameters)
            schema["description"] = found[0].description
            path.append(_parameter(name, "path", schema, True, made))
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            whole = annotation.model_json_schema(schema_generator=_Parameters)
            required = whole.get("required", ())
            query += [
                _parameter(field, "query", schema, field in required, made)
                for field, schema in whole.get("properties", {}).items()
            ]
    return path + query + headers


def _parameter(
    name: str, location: str, schema: Schema, is_required: bool, made: Schemas
) -> dict[str, Any]:
    """Several words are an array, which is sent with commas between the words."""
    description = schema.pop("description", "")
    examples = schema.pop("examples", None)
    described = {"name": name, "in": location, "required": is_required, "description": description}
    if location == "query" and OR in description:
        described |= {"style": "form", "explode": False}
        schema = {"type": "array", "items": _word(schema), "minItems": 1}
    elif examples and is_required:
        described["example"] = examples[0]
    elif examples:
        # As an `example`, /docs would send it along with every request that a reader tries.
        described["description"] = f"{description} For example `{examples[0]}`."
    return described | {"schema": made.placed(schema, camel(name))}


def _word(schema: Schema) -> Schema:
    words = words_of(schema.get("pattern", ""))
    if words is None:
        return {"type": "string", "minLength": 1, "maxLength": LONGEST_WORD}
    return {"type": "string", "enum": words}


def _body(body: Any, made: Schemas) -> Schema:
    """A dict is a body that the route describes itself; any other body gets an example."""
    if isinstance(body, dict):
        return body
    schema = made.body(body)
    whole = made.components[schema["$ref"].removeprefix(SCHEMAS)]
    required = whole.get("required", [])
    example = {
        name: field["examples"][0]
        for name, field in whole.get("properties", {}).items()
        if "examples" in field
    }
    if missing := set(required) - example.keys():
        raise ValueError(f"{whole['title']}: give examples=[…] to the fields {sorted(missing)}")
    content = {"application/json": {"schema": schema, "example": example}}
    return {"required": bool(required or "minProperties" in whole), "content": content}


def _responses(route: APIRoute, parameters: set[str], made: Schemas) -> dict[str, Schema]:
    usual: Responses = {route.status_code or 200: {}}
    return {
        str(status): {"$ref": f"#/components/responses/{_shared(int(status))}"}
        if not response and int(status) >= 300
        else _response(response, parameters, made)
        for status, response in (usual | route.responses).items()
    }


def _response(response: Mapping[str, Any], parameters: set[str], made: Schemas) -> Schema:
    content = response.get("content", {})
    if "types" in response:
        content = {"application/json": {"schema": made.answer(*response["types"])}}
    further = [name for parameter, name in texts.HEADER_OF.items() if parameter in parameters]
    if any(media in content for media in texts.FILES):
        further.append("Content-Disposition")
    described = {
        "description": response.get("description", "Successful Response"),
        "headers": _headers(further),
    }
    return described | ({"content": content} if content else {})


def _shared_responses(routes: Iterable[APIRoute]) -> dict[str, Schema]:
    """The responses that all routes share, by name: the problems, and 304."""
    statuses = {int(s) for r in routes for s, response in r.responses.items() if not response}
    content = {MEDIA_TYPE: {"schema": reference("Problem")}}
    shared: dict[str, Schema] = {}
    for status in sorted(statuses):
        headers = {"headers": _headers(texts.WITH_STATUS.get(status, ()))}
        shared[_shared(status)] = headers | (
            {"description": texts.NOT_MODIFIED}
            if status == 304
            else {"description": PHRASES[status], "content": content}
        )
    return shared


def _shared(status: int) -> str:
    if status == 304:
        return "NotModified"
    return PHRASES[status].title().replace(" ", "") + "Problem"


def _headers(further: Iterable[str]) -> dict[str, Schema]:
    return {
        name: {"$ref": f"#/components/headers/{name.replace('-', '')}"}
        for name in (*texts.EVERY, *further)
    }
