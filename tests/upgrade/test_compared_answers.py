"""The parts of two versions' answers that are compared, and the parts that are not."""

import json

from scripts.bench.corpus_request import Answer, Request, compared

LIST, NOW = Request("admin", "/v1/execution"), Request("admin", "/v1/execution/LIN-26-1/timeline")
THEN = Request("admin", "/v1/execution/LIN-26-1/timeline?from=2026-01-01&as_of=2026-02-01")
JSON = {"content-type": "application/json"}


def alike(request: Request, one: Answer, other: Answer) -> bool:
    return compared(request, one) == compared(request, other)


def refusal(**more: object) -> Answer:
    problem = {"code": "invalid_request", "detail": "old", "errors": [{"pointer": "/a"}]} | more
    return Answer(422, {"content-type": "application/problem+json"}, json.dumps(problem).encode())


def test_a_refusal_may_be_worded_better_but_not_mean_anything_else() -> None:
    assert alike(LIST, refusal(), refusal(detail="new"))
    assert not alike(LIST, refusal(), refusal(code="invalid_state"))
    assert not alike(LIST, refusal(), refusal(errors=[{"pointer": "/b"}]))


def test_status_body_and_three_headers_are_compared() -> None:
    answer = Answer(200, JSON, b"{}")
    assert not alike(LIST, answer, Answer(404, JSON, b"{}"))
    assert not alike(LIST, answer, Answer(200, JSON, b"{} "))
    for name in ("content-type", "etag", "ledger-position"):
        assert not alike(LIST, answer, Answer(200, JSON | {name: "x"}, b"{}")), name
    assert alike(LIST, answer, Answer(200, JSON | {"vary": "x"}, b"{}"))


def test_running_seconds_are_compared_only_in_reads_with_as_of() -> None:
    early, late = (Answer(200, JSON, b'{"seconds":%d.5,"state":"idle"}' % n) for n in (1, 2))
    assert alike(NOW, early, late)
    assert not alike(THEN, early, late)
    assert not alike(NOW, early, Answer(200, JSON, b'{"seconds":1.5,"state":"paused"}'))
