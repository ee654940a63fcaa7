"""The CloudEvent bodies of ``POST /v1/facts`` in OpenAPI, made from the models that check them."""

from typing import Any

from pydantic.json_schema import models_json_schema

from ledger.application.fact_types import ALIASES, FACT_TYPES, FactType
from ledger.domain.values import LINE_ID, RUN_ID

_TEMPLATE = "#/components/schemas/{model}"
_NAMES, _DEFINITIONS = models_json_schema(
    [(kind.data, "validation") for kind in FACT_TYPES.values()], ref_template=_TEMPLATE
)
FACT_SCHEMAS: dict[str, Any] = _DEFINITIONS["$defs"]
"""The ``data`` models by name, for the components of the OpenAPI document."""

_TEXT = {"type": "string", "minLength": 1, "maxLength": 255}


def _event(name: str, kind: FactType) -> dict[str, Any]:
    """The structured CloudEvent of one type."""
    required = ["specversion", "id", "source", "type", "data"]
    if not kind.subject_optional:
        required.append("subject")
    return {
        "type": "object",
        "title": name,
        "description": (kind.data.__doc__ or "").strip(),
        "properties": {
            "specversion": {"const": "1.0"},
            "id": _TEXT,
            "source": _TEXT | {"format": "uri-reference"},
            "type": {"const": name},
            "subject": {
                "type": "string",
                "pattern": LINE_ID if kind.subject == "line" else RUN_ID,
            },
            "time": {"type": "string", "format": "date-time"},
            "actortype": {"enum": ["user", "api_key", "agent", "system"]},
            "actorid": {"type": "string", "minLength": 1, "maxLength": 200},
            "datacontenttype": {"const": "application/json"},
            "data": _NAMES[(kind.data, "validation")],
        },
        "required": required,
        "dependentRequired": {"actortype": ["actorid"], "actorid": ["actortype"]},
        "additionalProperties": False,
    }


_KINDS = {**FACT_TYPES, **{alias: FACT_TYPES[name] for alias, name in ALIASES.items()}}
_FACT = {"oneOf": [_event(name, kind) for name, kind in _KINDS.items()]}

FACT_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/cloudevents+json": {"schema": _FACT},
        "application/json": {"schema": _FACT},
        "application/cloudevents-batch+json": {
            "schema": {"type": "array", "items": _FACT, "maxItems": 1000}
        },
    },
}
"""The request body. Binary mode (``ce-`` headers) works too."""
