"""Parameters: several words are an array, and no parameter is null."""

import re
from typing import Any

from ledger.api.document.schemas import Schema, operations_of, without_titles
from ledger.api.reading import LONGEST_WORD, OR

_PATTERN = re.compile(r"\^\(\?:(?P<words>[^()]+)\)\(\?:,\(\?:(?P=words)\)\)\*\$")
"""The patterns that ``any_of`` makes."""

IF_NONE_MATCH: Schema = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` of an earlier answer: if it is still valid, the answer is 304.",
    "schema": {"type": "string"},
}


def describe_parameters(document: Schema) -> None:
    """Describe the parameters of each operation as clients should send them."""
    for _, _, operation in operations_of(document):
        if "304" in operation["responses"]:
            operation.setdefault("parameters", []).append(dict(IF_NONE_MATCH))
        for parameter in operation.get("parameters", []):
            _describe(parameter)


def _describe(parameter: dict[str, Any]) -> None:
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
