"""The parts of two versions' answers that are compared, and the parts that are not."""

import hashlib
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


def entries(path: str, *texts: str) -> tuple[Request, list[Answer]]:
    return Request("admin", path), [Answer(200, JSON, text.encode()) for text in texts]


def test_the_fact_that_feeds_histories_and_the_audit_log_now_name_is_left_out() -> None:
    named = r'{"id":"EVT-1","payload":{},"fact":{"source":"a \"b\"","id":"c}"},"sequence":1}'
    for path in (
        "/v1/events?limit=9",
        "/v1/events/EVT-1",
        "/v1/execution/L/history",
        "/v1/events/stream",
    ):
        request, (old, none, fact) = entries(
            path,
            '{"id":"EVT-1","payload":{},"sequence":1}',
            '{"id":"EVT-1","payload":{},"fact":null,"sequence":1}',
            named,
        )
        assert alike(request, old, none), path
        assert alike(request, old, fact), path
    request, (old, fact) = entries("/v1/execution/L", '{"id":1}', '{"id":1,"fact":null}')
    assert not alike(request, old, fact)
    request, (old, other) = entries("/v1/events", '{"id":1}', '{"id":1,"fact":{"source":"a"}}')
    assert not alike(request, old, other)
    request, (old, other) = entries("/v1/events", '{"id":1}', r'{"id":1,"note":",\"fact\":null"}')
    assert not alike(request, old, other)


def test_columns_that_follow_those_of_the_audit_logs_old_table_are_left_out() -> None:
    request = Request("admin", "/v1/audit-logs/export?format=csv")
    row = ",".join(['"a,""\r\n"', *map(str, range(14))])
    old, new, other, less = (
        Answer(200, {"content-type": "text/csv; charset=utf-8"}, f"{text}\r\n".encode())
        for text in (row, f"{row},source,id", f"x{row}", row.rpartition(",")[0])
    )
    assert alike(request, old, new)
    assert not alike(request, old, other)
    assert not alike(request, old, less)


# Additions since 57058cd.


def test_the_reason_and_the_name_of_the_key_are_left_out_of_audit_entries() -> None:
    entry = '{"code":null%s,"request_id":null,"reported_by":"KEY-1"%s,"resource":{"reason":"r"}}'
    request, (old, none, new, other) = entries(
        "/v1/audit-logs?limit=9",
        entry % ("", ""),
        entry % (',"reason":null', ',"reported_by_name":null'),
        entry % (',"reason":"a \\"b\\""', ',"reported_by_name":"n"'),
        (entry % ("", "")).replace(',"resource":{"reason":"r"}', ""),
    )
    assert alike(request, old, none)
    assert alike(request, old, new)
    assert not alike(request, old, other)
    assert not alike(LIST, old, none)


def test_the_request_of_a_delivery_is_left_out_and_retrying_counts_as_pending() -> None:
    delivery = '{"data":[{"status":"%s","next_attempt_at":null%s}]}'
    sent = ',"request":{"url":"u","headers":{"a":"b"},"body":"{\\"c\\":{}}"}'
    request, (old, none, new, other) = entries(
        "/v1/webhooks/WHK-26-1/deliveries",
        delivery % ("pending", ""),
        delivery % ("pending", ',"request":null'),
        delivery % ("retrying", sent),
        delivery % ("failed", sent),
    )
    assert alike(request, old, none)
    assert alike(request, old, new)
    assert not alike(request, old, other)


LINE, HISTORY = (Request("admin", f"/v1/execution/LIN-26-1{rest}") for rest in ("", "/history"))
NAMED = ',"name":null,"health_score":69,"oldest_blocker":'
OLDEST = '{"id":"b","cause":"approval_gap","reason":"a \\"b\\"","since":"2026"%s}'


def tagged(body: str) -> Answer:
    tag = f'"{hashlib.sha256(body.encode()).hexdigest()[:24]}"'
    return Answer(200, JSON | {"etag": tag, "ledger-position": "7"}, body.encode())


def test_the_name_score_and_blocker_of_a_line_are_left_out_where_they_are_as_before() -> None:
    line, due = '{"state":"blocked"%s,"blockers":[%s]}', ',"assignee":null,"due_at":null'
    old = tagged(line % ("", OLDEST % ""))
    more = OLDEST % f'{due},"reported_by":"KEY-1"'
    for blocker in ("null", OLDEST % due):
        assert alike(LINE, old, tagged(line % (NAMED + blocker, more)))
        assert alike(LIST, old, tagged(line % (NAMED + blocker, more)))
    named = NAMED.replace('"name":null', '"name":"n"') + "null"
    assert not alike(LINE, old, tagged(line % (named, more)))
    assert not alike(LINE, old, tagged(line % (NAMED + "null", more.replace("due_at", "due"))))
    assert not alike(LINE, old, tagged(line % (NAMED + "null", more) + " "))
    assert not alike(HISTORY, old, tagged(line % (NAMED + "null", more)))


def test_the_entity_tag_of_an_older_answer_stands_for_the_answer_with_additions() -> None:
    old, new = tagged('{"id":1}'), tagged(f'{{"id":1{NAMED}null}}')
    known = LINE._replace(headers=(("if-none-match", old.headers["etag"]),))
    kept = {name: old.headers[name] for name in ("etag", "ledger-position")}
    unchanged = Answer(304, kept, b"")
    assert alike(LINE, old, new)
    assert alike(known, unchanged, new)
    assert not alike(LINE, unchanged, new)


def test_the_payloads_that_gained_fields_are_compared_without_them() -> None:
    old, new, other = (
        Answer(200, JSON, f'{{"payload":{{"tags":[]{more},"state_before":null}}}}'.encode())
        for more in ("", ',"name":null', ',"name":"n"')
    )
    assert alike(HISTORY, old, new)
    assert not alike(HISTORY, old, other)


def test_the_external_id_parent_and_lease_of_a_run_are_left_out_where_there_are_none() -> None:
    three = ',"external_id":%s,"parent_run_id":null,"lease_seconds":null'
    runs = Request("admin", "/v1/execution/LIN-26-1/runs?limit=1")
    old, new, other = (tagged(f'{{"id":1{m}}}') for m in ("", three % "null", three % '"x"'))
    for request in (runs, Request("admin", "/v1/runs/RUN-26-1")):
        assert alike(request, old, new)
        assert not alike(request, old, other)
    assert not alike(LINE, old, new)
    gone = ',"external_id":null,"lease_expired":%s,"last_heard_at":null'
    old, new, other = (
        Answer(200, JSON, f'{{"payload":{{"late":false{more}}}}}'.encode())
        for more in ("", gone % "false", gone % "true")
    )
    assert alike(HISTORY, old, new)
    assert not alike(HISTORY, old, other)
    old, new, other = (
        Answer(200, JSON, f'{{"payload":{{"reason":"r"{more}}}}}'.encode())
        for more in ("", ',"external_id":null', ',"external_id":"x"')
    )
    assert alike(HISTORY, old, new)
    assert not alike(HISTORY, old, other)
