"""The module ``types.ts``: the schemas that the routes reach, from openapi-typescript.

The tool gets a document of schemas alone, with their names in the Python client. A route's filters
are such a schema too. The module begins with the digest of that document, so a test without Node
can detect a stale module.
"""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.python_client.operations import camel
from scripts.python_client.schemas import PREFIX, Names, Schema

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "src/ledger_client_ts"
ROUTES, TYPES = FOLDER / "src/routes.ts", FOLDER / "src/types.ts"

FLAGS = ("--root-types", "--root-types-no-schema-prefix", "--default-non-nullable=false")
UNTYPED = {"title", "example", "examples"}
"""Members of a schema that do not matter to a type checker."""


def schemas(document: Schema) -> Schema:
    """The document of the schemas that answers, bodies and filters need."""
    every = document["components"]["schemas"]
    names, found = Names(every), {}
    waiting = [f"{PREFIX}Event", f"{PREFIX}Fact", f"{PREFIX}Problem"]
    for methods in document["paths"].values():
        for operation in methods.values():
            if filters := filters_of(operation):
                found[f"{camel(operation['operationId'])}Query"] = _renamed(filters, names)
                waiting += _references(filters)
            waiting += _references({k: operation.get(k) for k in ("requestBody", "responses")})
    while waiting:
        name = waiting.pop().removeprefix(PREFIX)
        if names.of(name) not in found:
            found[names.of(name)] = _renamed(every[name], names)
            waiting += _references(every[name])
    return {
        "openapi": document["openapi"],
        "info": {"title": "", "version": ""},
        "paths": {},
        "components": {"schemas": dict(sorted(found.items()))},
    }


def filters_of(operation: Schema) -> Schema | None:
    """The filters of a route as one schema; None if there are none."""
    parameters = [each for each in operation.get("parameters", ()) if each["in"] == "query"]
    if not parameters:
        return None
    properties = {each["name"]: _words(each) for each in parameters}
    required = [each["name"] for each in parameters if each["required"]]
    return {"type": "object", "properties": properties, "required": required}


def _words(parameter: Schema) -> Schema:
    """A filter. If it takes several words, one word alone is allowed too."""
    schema = parameter["schema"]
    docs = {"description": parameter["description"]} if parameter.get("description") else {}
    if schema.get("type") == "array":
        return {"anyOf": [schema["items"], {"type": "array", "items": schema["items"]}]} | docs
    return schema | docs


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for name, each in schema.items():
            if name == "$ref":
                yield from [each] if each.startswith(PREFIX) else ()
            else:
                yield from _references(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _references(each)


def _renamed(schema: Any, names: Names, *, are_fields: bool = False) -> Any:
    """A schema with the clients' names in its references, and without what only people read."""
    if isinstance(schema, list):
        return [_renamed(each, names) for each in schema]
    if isinstance(schema, str):
        if schema.startswith(PREFIX):
            return PREFIX + names.of(schema.removeprefix(PREFIX))
        return schema
    if not isinstance(schema, dict):
        return schema
    # The tool shows an object's choice between required fields as unknown, so leave it out.
    left_out = UNTYPED | ({"anyOf"} if "properties" in schema else set())
    return {
        name: _renamed(each, names, are_fields=name in ("properties", "mapping"))
        for name, each in schema.items()
        if are_fields or name not in left_out
    }


def digest_of(reduced: Schema) -> str:
    """The first line of the module for a document."""
    text = json.dumps([FLAGS, reduced], sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"// Made by openapi-typescript of schemas with SHA-256 {digest}.\n"


def is_of(module: str, reduced: Schema) -> bool:
    """Return True if a module was made from a document."""
    return module.startswith(digest_of(reduced))


def made_types(reduced: Schema) -> str:
    """The text of the module. Needs the npm tools in the client's folder."""
    tool = FOLDER / "node_modules/.bin/openapi-typescript"
    text = json.dumps(reduced, ensure_ascii=False)
    done = subprocess.run([tool, *FLAGS], input=text, capture_output=True, text=True, check=True)
    return digest_of(reduced) + done.stdout
