"""The parts of two versions' answers that are compared, and the parts that are not."""

import json

from scripts.bench.corpus_request import Answer, Request, compared, digest_of, reason_of

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


def test_the_last_use_of_a_key_is_not_compared() -> None:
    request, unused = Request("admin", "/v1/keys"), b'{"name":null,"last_used_at":null}'
    used, named = (
        Answer(200, JSON, b'{"name":%s,"last_used_at":"2026-02-01T00:00:00Z"}' % name)
        for name in (b"null", b'"n"')
    )
    assert alike(request, Answer(200, JSON, unused), used)
    assert not alike(request, used, named)


def test_an_event_types_description_may_be_worded_better() -> None:
    request = Request("admin", "/v1/event-types/run.started")
    old, new, other = (
        Answer(200, JSON, json.dumps({"description": text, "type": kind}).encode())
        for text, kind in (("old", "object"), ("new", "object"), ("old", "array"))
    )
    assert alike(request, old, new)
    assert not alike(request, old, other)


def test_the_name_of_a_key_in_the_audit_log_is_wanted_to_differ_and_nothing_else() -> None:
    request = Request("organization", "/v1/audit-logs?limit=9")
    old, new, other = (
        Answer(200, JSON, b'{"code":%s,"reported_by_name":%s}' % each)
        for each in ((b"null", b'"admin"'), (b"null", b"null"), (b'"x"', b"null"))
    )
    assert not alike(request, old, new)
    assert reason_of(request, old, new)
    assert digest_of(request, old) == digest_of(request, new)
    assert reason_of(request, old, other) is None
    assert digest_of(request, old) != digest_of(request, other)
    assert reason_of(LIST, old, new) is None
    assert digest_of(LIST, old) != digest_of(LIST, new)


def test_a_cell_of_the_audit_logs_table_is_wanted_to_differ_if_it_names_a_key() -> None:
    request = Request("organization", "/v1/audit-logs/export?format=csv")
    old, new, other = (
        Answer(200, {"content-type": "text/csv"}, b"AUD-26-000001,%s\r\n" % each)
        for each in (b"KEY-26-000002,admin", b"KEY-26-000002,", b"KEY-26-000003,")
    )
    assert reason_of(request, old, new)
    assert reason_of(request, old, other) is None
