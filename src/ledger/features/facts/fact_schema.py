"""The CloudEvent bodies of ``POST /v1/facts`` in OpenAPI, made from the models that check them."""

from typing import Any, get_args

from pydantic.json_schema import models_json_schema

from ledger.engine.http.models import TEMPLATE, camel, one_of, reference
from ledger.engine.values.values import LABEL, ActorType
from ledger.features.facts.envelope import MAX_ITEMS, SUBJECT_IDS
from ledger.features.facts.fact_types import ALIASES, FACT_TYPES, NAME_OF_RUN, FactType

_NAMES, _DEFINITIONS = models_json_schema(
    [(kind.data, "validation") for kind in FACT_TYPES.values()], ref_template=TEMPLATE
)
_TEXT = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": LABEL}
_NULL: dict[str, Any] = {"type": "null"}
ACTORS = tuple(kind for kind in get_args(ActorType) if kind != "system")
"""The types of actors that a fact may name: ``system`` is the ledger itself."""
_JSON = r"^([Aa][Pp][Pp][Ll][Ii][Cc][Aa][Tt][Ii][Oo][Nn]/|[^;]*\+)[Jj][Ss][Oo][Nn] *(;|$)"

# Both attributes of the actor are given, or neither; null means absent (CloudEvents JSON format,
# 2.2). Client generators ignore ``if`` and ``else``; for alternatives (``anyOf``) they would make
# extra classes, or fail.
_ACTOR: dict[str, Any] = {
    "if": {"properties": {"actortype": _NULL, "actorid": _NULL}},
    "else": {
        "properties": {"actortype": {"type": "string"}, "actorid": {"type": "string"}},
        "required": ["actortype", "actorid"],
    },
}


# The ending of a run names the run by its id or by its external id. One object has one ``if``, so
# the rule is below both branches of the actor's; generators fail at a ``not``.
_NAME: dict[str, Any] = {
    "if": {"properties": {"subject": _NULL}},
    "then": {
        "properties": {
            "data": {
                "type": "object",
                "properties": {NAME_OF_RUN: {"type": "string"}},
                "required": [NAME_OF_RUN],
            }
        },
        "required": ["data"],
    },
}
_NAME_AND_ACTOR = _ACTOR | {"then": _NAME, "else": _ACTOR["else"] | _NAME}


def _optional(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, _NULL]}


def _event(name: str, kind: FactType) -> dict[str, Any]:
    required = ["specversion", "id", "source", "type"]
    subject: dict[str, Any] = {
        "type": "string",
        "pattern": SUBJECT_IDS[kind.subject],
    }
    is_ending = kind.subject == "run" and not kind.subject_optional
    if kind.subject_optional or is_ending:
        subject = _optional(subject)
    else:
        required.append("subject")
    data = _NAMES[(kind.data, "validation")]
    if any(field.is_required() for field in kind.data.model_fields.values()):
        required.append("data")
    else:
        data = _optional(data)
    return {
        "type": "object",
        "description": (kind.data.__doc__ or "").strip(),
        "properties": {
            "specversion": {"const": "1.0"},
            "id": _TEXT,
            "source": _TEXT | {"format": "uri-reference"},
            "type": {"const": name},
            "subject": subject,
            "time": _optional({"type": "string", "format": "date-time"})
            | {"description": "When it happened: by default now, and at most 5 minutes ahead."},
            "actortype": {"enum": [*ACTORS, None]},
            "actorid": _optional(_TEXT | {"maxLength": 200}),
            "datacontenttype": _optional({"type": "string", "pattern": _JSON}),
            "traceparent": _optional({"type": "string"})
            | {"description": "W3C Trace Context; events show its `trace_id`."},
            "data": data,
        },
        "required": required,
        **(_NAME_AND_ACTOR if is_ending else _ACTOR),
        # Other extension attributes are accepted and ignored. Clients lose nothing without them,
        # and a misspelt attribute does not compile.
        "additionalProperties": False,
    }


_KINDS = {**FACT_TYPES, **{alias: FACT_TYPES[name] for alias, name in ALIASES.items()}}


def _component_of(name: str) -> str:
    return camel(name, "fact")


_FACT = reference("Fact")

FACT_SCHEMAS: dict[str, Any] = {
    **_DEFINITIONS["$defs"],
    **{_component_of(name): _event(name, kind) for name, kind in _KINDS.items()},
    "Fact": {
        **one_of("type", {name: _component_of(name) for name in _KINDS}),
    },
    "FactBatch": {
        "type": "array",
        "description": "Up to 1,000 facts. Each has an outcome of its own.",
        "items": _FACT,
        "maxItems": MAX_ITEMS,
    },
}
"""The facts and their ``data`` by name, for the components of the OpenAPI document."""

_EXAMPLE: dict[str, Any] = {
    "specversion": "1.0",
    "id": "check-in-2026-04-15-1",
    "source": "/timesheets",
    "type": "execution.checked_in",
    "subject": "LIN-26-084729",
    "data": {"hours": 7.5, "note": "Sprint review"},
}
_STARTED: dict[str, Any] = {
    "specversion": "1.0",
    "id": "run-4711-started",
    "source": "/agents",
    "type": "run.started",
    "data": {"service_line_id": "LIN-26-084730", "triggered_by": {"type": "schedule"}},
}

_SEVERAL = {"summary": "Several facts", "value": [_EXAMPLE, _STARTED]}


def _body(schema: str, examples: dict[str, Any]) -> dict[str, Any]:
    content = {"schema": reference(schema), "examples": examples}
    return {"required": True, "content": {"application/json": content}}


BATCH_BODY = _body("FactBatch", {"several": _SEVERAL})
FACT_BODY = _body("Fact", {"one": {"summary": "One fact", "value": _EXAMPLE}})
"""The request body. The route also accepts arrays, the content types of CloudEvents and binary mode
(``ce-`` headers), but client generators fail at a route with several forms (contract, Facts)."""
