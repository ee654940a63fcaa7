"""Requests of schemathesis to the service in this process, and what it may refuse."""

from io import BytesIO
from typing import Any

import requests
from hypothesis import assume
from requests.adapters import HTTPAdapter
from schemathesis import GenerationMode
from urllib3 import HTTPResponse

from tests.support.edge import Edge

BASE = "http://ledger.test"


class InProcess(HTTPAdapter):
    """Sends the requests that ``requests`` has prepared to the service in this process."""

    def __init__(self, edge: Edge) -> None:
        super().__init__()
        self._edge = edge

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        # A head above 64 KiB is answered before the application, by 431 (contract, Access).
        assume(len(request.url or "") < 60_000)
        answer = self._edge.request(
            request.method or "GET",
            (request.url or "").removeprefix(BASE),
            headers=[(k, _sent(v)) for k, v in request.headers.items() if k.lower() != "host"],
            content=request.body or b"",
        )
        # The HTTP client has unpacked the body already.
        of_packed = ("content-encoding", "content-length")
        headers = [pair for pair in answer.headers.multi_items() if pair[0] not in of_packed]
        raw = HTTPResponse(
            body=BytesIO(answer.content),
            headers=headers,
            status=answer.status_code,
            preload_content=False,
        )
        return self.build_response(request, raw)


def _sent(value: str | bytes) -> bytes:
    """A header's value as ``requests`` would write it: Latin-1."""
    return value if isinstance(value, bytes) else value.encode("latin-1")


STATE = {
    "forbidden", "not_found", "invalid_state", "fact_conflict", "invalid_cursor", "behind",
    "runs_not_supported", "idempotency_key_reused", "unavailable",
}  # fmt: skip
"""The codes of refusals that no form of a request can avoid."""

POINTERS = {
    "/time", "/data/started_at",  # not too far ahead, and of the years 1900 to 2099
    "/as_of", "/from", "/to", "/since",  # a day that its month has; a range that is no range
    "/recorded_after", "/recorded_until", "/occurred_from", "/occurred_to",  # the same
    "/group_by", "/then", "/now",  # words that go together; instants that are not in the future
    "/time_zone",  # of those that the database of time zones has
    "/size", "/url", "/data/hours",  # what is sealed; public addresses; two decimals
    "/event_types",  # of formats for people, those of alerts
    "/expires_at",  # in the future
    "/filter",  # an array with words
    "/until",  # in the future, not too far ahead
    "/after",  # a run that is known
    "/organization_id",  # of the audit log: required of all but administrators; of lines: as below
    "/sort", "/health", "/resource_id",  # about now only: not with as_of
    "/assignee", "/unassigned", "/overdue", "/has_alerts",  # as well
    "/hours/to", "/hours/time_zone",  # later than from; of those that the database has
    "/for_seconds", "/keep_seconds",  # as the kind of the condition has them
    "/data/service_line_id",  # required for the start of a run that nobody requested
    "",  # I-JSON: NUL, lone surrogates, the size of numbers, depth
}  # fmt: skip
"""The parts of a well-formed request for which the document's words say more than its schemas."""


def accepted_but_for_state(_: Any, answer: Any, case: Any) -> None:
    """A check: no valid request is refused but for what state decides."""
    if answer.status_code < 400 or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    problem = answer.json()
    pointers = {error["pointer"] for error in problem.get("errors", [])}
    decided = problem["code"] in STATE or (problem["status"] == 422 and pointers <= POINTERS)
    assert decided, (problem, case.as_curl_command())
