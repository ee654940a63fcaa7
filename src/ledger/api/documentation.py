"""OpenAPI beside the models: refusals by kind of route, and bodies that routes parse themselves."""

from typing import Any

from pydantic import BaseModel

from ledger.api.models import TEMPLATE, reference
from ledger.api.problems import MEDIA_TYPE

_Responses = dict[int | str, dict[str, Any]]


def refusals(*statuses: int) -> _Responses:
    """OpenAPI's responses of these statuses, each a problem document."""
    schema = reference("Problem")
    return {
        status: {"description": "Problem", "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


READ_ERRORS = refusals(400, 401, 403, 422, 429, 503)
_NOT_MODIFIED: _Responses = {304: {"description": "The caller's entity tag is still valid"}}
LIST_ERRORS = _NOT_MODIFIED | READ_ERRORS
LINE_ERRORS = _NOT_MODIFIED | refusals(401, 403, 404, 422, 429, 503)
FEED_ERRORS = refusals(401, 403, 404, 422, 429, 503)
STORY_ERRORS = refusals(400, 401, 403, 404, 422, 429, 503)
RUN_LIST_ERRORS = _NOT_MODIFIED | refusals(400, 401, 403, 404, 422, 429, 503)
WRITE_ERRORS = refusals(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503)

IDEMPOTENT: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "Makes the request safe to send again for 24 hours: the outcome is"
            " replayed, with `Idempotency-Replayed: true`.",
            # In quotation marks, or bare; a bare key may begin with one, too.
            "schema": {
                "type": "string",
                "pattern": '^("[!-~]{1,255}"|[!#-~][!-~]{0,254}|"([!-~]{0,253}[!#-~])?)$',
            },
        }
    ]
}


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI's description of a command's JSON body, optional if no field is required."""
    schema = model.model_json_schema(ref_template=TEMPLATE)
    return {
        "requestBody": {
            "required": bool(schema.get("required")),
            "content": {"application/json": {"schema": schema}},
        }
    }
