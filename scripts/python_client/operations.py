"""The generated module ``_operations.py``: each route, and the arguments that it takes."""

from typing import Any

from scripts.python_client.schemas import PREFIX, Argument, Schema, Written, docstring

HEADERS = {
    "Idempotency-Key": ("idempotency_key", "str"),
    "Ledger-Min-Position": ("min_position", "int"),
}
"""Headers that are arguments. ``_requests.py`` sends them."""

SHORT = "application/json"


def operations(document: Schema, written: Written) -> str:
    """Return the text of the module, unformatted. Adds the types that it names to ``written``."""
    constants, arguments = [], []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            name = camel(operation["operationId"])
            kind, answer = answer_of(operation, written)
            params = parameters_of(operation, written)
            constants.append(
                f"{operation['operationId'].upper()}: {kind}[{answer}] = {kind}("
                f'"{method.upper()}", "{path}", {_runtime(answer)})\n'
            )
            if keys := "".join(each.key() for each in params if not each.is_required):
                summary = operation.get("summary") or name
                text = docstring(f"Arguments: {summary[0].lower()}{summary[1:]}.")
                arguments.append(f"class {name}(TypedDict, total=False):\n{text}{keys}")
    facts = [
        _fact(name, written)
        for name, schema in written.schemas.items()
        if "specversion" in schema.get("properties", ()) and not name.startswith("Agent")
    ]
    kinds = written.schemas["Fact"]["discriminator"]["mapping"]
    words = ", ".join(f'"{kind}"' for kind in kinds if not kind.startswith("agent."))
    alias = f"FactType: TypeAlias = Literal[{words}]\n"
    head = HEAD + alias + '"""The types of facts."""\n\n' + "\n".join(constants)
    return head + "\n\n" + ATTRIBUTES + "\n\n".join(arguments + facts)


def answer_of(operation: Schema, written: Written) -> tuple[str, str]:
    """The class of the operation, and the type of its method's result."""
    status = next(each for each in operation["responses"] if each < "3")
    content = operation["responses"][status].get("content", {})
    if not content:
        return "Command", "None"
    if SHORT not in content:
        is_text = next(iter(content)).startswith("text/plain")
        if "application/schema+json" in content:
            return "Bare", "dict[str, Any]"
        return ("Text" if is_text else "File"), ("str" if is_text else "bytes")
    schema = content[SHORT]["schema"]
    if "$ref" not in schema:
        return "Bare", "dict[str, Any]"
    whole = written.schemas[schema["$ref"].removeprefix(PREFIX)]
    members = whole["properties"]
    if members.keys() == {"data", "meta"} and members["meta"] == {"$ref": f"{PREFIX}Meta"}:
        written.type_of(members["meta"])
        if "items" in members["data"]:
            return "Listing", written.type_of(members["data"]["items"])
        return "Bare", written.type_of(schema)
    if members.keys() == {"data"}:
        return "Command" if "requestBody" in operation else "Answer", written.type_of(
            members["data"]
        )
    return "Bare", written.type_of(schema)


def _runtime(answer: str) -> str:
    return "None" if answer == "None" else answer


def data_of(fact: str, written: Written) -> Schema:
    data = written.schemas[fact]["properties"]["data"]
    references = (each["$ref"] for each in (data, *data.get("anyOf", ())) if "$ref" in each)
    return written.schemas[next(references).removeprefix(PREFIX)]


def parameters_of(operation: Schema, written: Written) -> list[Argument]:
    """The arguments of a route's method, without the ids in its path."""
    params = [
        _parameter(each["name"], each["schema"] | _described(each), each["required"], written)
        for each in operation.get("parameters", ())
        if each["in"] == "query"
    ]
    body: Any = operation.get("requestBody", {}).get("content", {}).get(SHORT, {}).get("schema")
    if body:
        whole = written.schemas[body["$ref"].removeprefix(PREFIX)]
        params += written.arguments(whole) if "properties" in whole else []
    headers = [each["name"] for each in operation.get("parameters", ())]
    return params + [Argument(*HEADERS[name], False) for name in headers if name in HEADERS]


def _described(parameter: Schema) -> Schema:
    return {"description": parameter["description"]} if parameter["description"] else {}


def _parameter(name: str, schema: Schema, is_required: bool, written: Written) -> Argument:
    """A filter. If it takes several words, one word alone is allowed too."""
    argument = written.argument(name, schema, is_required)
    if schema.get("type") == "array":
        return argument._replace(type=argument.type.replace("Sequence[", "Words[", 1))
    if schema.get("pattern", "").startswith("^(19|20)"):
        return argument._replace(type="Instant")
    return argument


def fact_arguments(name: str, written: Written) -> list[Argument]:
    """The arguments of a fact's method, without those that say what it is about."""
    fields = written.arguments(data_of(name, written))
    return [each for each in fields if each.name not in {"id", "service_line_id"}]


def _fact(name: str, written: Written) -> str:
    """The other arguments of a fact's method: fields of its data, and attributes."""
    data = data_of(name, written)
    text = f"class Report{name.removesuffix('Fact')}(Attributes, total=False):\n"
    text += docstring(data.get("description") or f"The fact `{name}`.")
    return text + "".join(
        each.key() for each in fact_arguments(name, written) if not each.is_required
    )


def camel(name: str) -> str:
    """The name of a class from the words of a function."""
    return "".join(word.capitalize() for word in name.split("_"))


HEAD = '''"""Each route, and the arguments that it takes: generated by scripts/python_client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar

from execution_ledger._operation import Answer, Bare, Command, File, Listing, Text
from execution_ledger.types import *  # noqa: F403

T = TypeVar("T")

Words: TypeAlias = T | Sequence[T]
"""A word, or several, any of which may match."""

'''

ATTRIBUTES = '''class Attributes(TypedDict, total=False):
    """The attributes of a fact that may be given beside its data."""

    id: str
    """The fact's id at its source, by default a new one. A fact sent again needs the same."""
    source: str
    """By default the client's own."""
    time: Instant
    """The time at which it happened, by default now."""
    actortype: str
    """``user``, ``agent`` or ``api_key``; with ``actorid``. By default the credential."""
    actorid: str


'''
