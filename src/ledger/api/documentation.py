"""What OpenAPI says of refusals, by kind of route."""

from typing import Any

from ledger.api.models import Problem
from ledger.api.problems import MEDIA_TYPE

_Responses = dict[int | str, dict[str, Any]]


def refusals(*statuses: int) -> _Responses:
    """These statuses as problem documents."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": "Problem", "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


READ_ERRORS = refusals(400, 401, 403, 422, 503)
_NOT_MODIFIED: _Responses = {304: {"description": "The caller's entity tag still holds"}}
LINE_ERRORS = _NOT_MODIFIED | refusals(401, 403, 404, 422, 503)
STORY_ERRORS = refusals(400, 401, 403, 404, 422, 503)
RUN_LIST_ERRORS = _NOT_MODIFIED | refusals(400, 401, 403, 404, 422, 503)
WRITE_ERRORS = refusals(400, 401, 403, 404, 409, 413, 415, 422, 503)
PROBLEM_SCHEMA = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
