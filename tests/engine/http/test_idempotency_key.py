"""``Idempotency-Key``: a repeated command is replayed, not carried out again (contract, Access)."""

import asyncio
import itertools
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from ledger.app.settings import Settings
from ledger.engine.http.problems import STATUS
from ledger.engine.values.errors import IdempotencyKeyReused, Refused
from ledger.engine.writer.group import LASTING
from tests.engine.views.test_stopped_views import degraded
from tests.support.edge import PLAIN, Edge, assert_problem, dumps
from tests.support.facts import LINE, ORGANIZATION, WORKSPACE, activation, fact
from tests.support.views import query

REASON = {"reason": "Stakeholder review"}
_keys = itertools.count(1)


def fresh_key() -> str:
    return f"key-{next(_keys)}"


def send(edge: Edge, line: str, key: str, action: str = "pause", **more: Any) -> httpx.Response:
    """Send a command under a key, with a reason unless ``more`` has another body."""
    token = more.pop("token", None)
    if "content" in more:
        more.setdefault("headers", PLAIN)
    elif "json" not in more:
        more["json"] = REASON
    headers = [*more.pop("headers", {}).items(), ("idempotency-key", key)]
    return edge.post(f"/v1/execution/{line}/{action}", token, headers=headers, **more)


def kinds(of: type[Refused]) -> Iterator[type[Refused]]:
    """A class of refusals and all of its subclasses."""
    yield of
    for kind in of.__subclasses__():
        yield from kinds(kind)


def test_exactly_the_refusals_of_409_and_422_are_replayed() -> None:
    found = {kind for kind in kinds(Refused) if kind is not Refused}
    lasting = {kind for kind in found if STATUS[kind.code][0] in (409, 422)}
    # IdempotencyKeyReused is about the key: the outcome under the key is another request's.
    assert set(LASTING) == lasting - {IdempotencyKeyReused}


def replayed(answer: httpx.Response) -> bool:
    """True if the answer says that it is a replay."""
    assert answer.headers.get_list("idempotency-replayed") in ([], ["true"])
    return "idempotency-replayed" in answer.headers


def body(answer: httpx.Response) -> Any:
    """The status, the content type and the document of an answer, without the request id."""
    document = answer.json()
    document.pop("request_id", None)
    return answer.status_code, answer.headers["content-type"], document


def held(edge: Edge, line: str) -> bool:
    return bool(edge.data(f"/v1/execution/{line}")["holds"])


def end(edge: Edge) -> int:
    """The last position of the log, which may be that of a refusal."""
    return int(edge.select("SELECT max(notification_id) FROM ledger.ledger_events")[0][0])


# Replays.


def test_a_200_is_replayed_byte_for_byte(edge: Edge) -> None:
    line, key = edge.fresh(), fresh_key()
    first = send(edge, line, key)
    before = end(edge)
    again = send(edge, line, key)
    assert (first.status_code, replayed(first), replayed(again)) == (200, False, True)
    assert again.content == first.content
    assert again.headers["ledger-position"] == first.headers["ledger-position"]
    assert end(edge) == before


def test_the_replay_of_a_pause_shows_the_line_as_the_pause_left_it(edge: Edge) -> None:
    line, key = edge.fresh(), fresh_key()
    first = send(edge, line, key)
    assert send(edge, line, fresh_key(), "resume").status_code == 200
    edge.accept(fact("service_line.updated", line, {"project_tags": ["later"]}))
    edge.clock.advance(hours=1)
    again = send(edge, line, key)
    assert (body(again), replayed(again)) == (body(first), True)
    assert again.json()["data"]["state"] == "paused"
    assert not held(edge, line)
    edge.accept(fact("service_line.closed", line))
    assert body(send(edge, line, key)) == body(first)


def test_an_answer_and_its_replay_do_not_show_what_others_did_afterwards(edge: Edge) -> None:
    line, key = edge.fresh(), fresh_key()
    begun = end(edge)
    with (
        edge.views_left_to_the_projector(),
        psycopg.connect(edge.conninfo) as connection,
        ThreadPoolExecutor(3) as pool,
    ):
        # The lock stops the projector at the check-in. Then it folds both commands in one batch.
        connection.execute("LOCK TABLE ledger.projection IN EXCLUSIVE MODE")
        pool.submit(edge.send, fact("execution.checked_in", line))
        await_end(edge, begun + 1)
        paused = pool.submit(send, edge, line, key)
        await_end(edge, begun + 2)
        resumed = pool.submit(send, edge, line, fresh_key(), "resume")
        await_end(edge, begun + 3)
        connection.rollback()
        first, second = paused.result(10), resumed.result(10)
    assert first.json()["data"]["state"] == "paused"
    assert first.headers["ledger-position"] == str(begun + 2)
    assert second.json()["data"]["state"] == "running"
    again = send(edge, line, key)
    assert (body(again), replayed(again)) == (body(first), True)


def await_end(edge: Edge, position: int) -> None:
    """Wait until the log ends at this position. A check is a round trip, so there is no pause."""
    deadline = time.monotonic() + 60
    while end(edge) != position:
        assert time.monotonic() < deadline


@pytest.mark.parametrize("status", [409, 422])
def test_a_409_and_a_422_are_replayed_though_the_command_would_succeed_now(
    edge: Edge, status: int
) -> None:
    line, key = edge.fresh(), fresh_key()
    sent: Any = {"json": REASON} if status == 409 else {"content": b'{"reason": "", "x": 1}'}
    edge.post(f"/v1/execution/{line}/pause", json=REASON)
    first = send(edge, line, key, **sent)
    edge.post(f"/v1/execution/{line}/resume")
    before = end(edge)
    again = send(edge, line, key, **sent)
    assert_problem(again, status, first.json()["code"])
    assert (body(again), replayed(first), replayed(again)) == (body(first), False, True)
    assert first.json()["request_id"] != again.json()["request_id"]
    assert (held(edge, line), end(edge)) == (False, before)


def test_json_that_parsers_disagree_on_is_a_422_that_is_replayed(edge: Edge) -> None:
    line, key = edge.fresh(), fresh_key()
    twice = {"content": b'{"reason": "a", "reason": "b"}'}
    first, again = (send(edge, line, key, **twice) for _ in range(2))
    assert_problem(first, 422, "invalid_request")
    assert (body(again), replayed(again)) == (body(first), True)


def test_the_stored_outcome_of_a_body_full_of_mistakes_is_small(edge: Edge) -> None:
    wrong = {"json": {f"{number:x}": 1 for number in range(7_000)}}
    answer = send(edge, edge.fresh(), key := fresh_key(), **wrong)
    assert len(assert_problem(answer, 422, "invalid_request")["errors"]) == 50
    statement = f"SELECT length(outcome) FROM ledger.idempotency WHERE key = '{key}'"
    ((size,),) = edge.select(statement)
    assert size < 8_000


def test_a_403_and_a_404_are_judged_anew(edge: Edge) -> None:
    line, key = edge.fresh_id(), fresh_key()
    reader = edge.token("read")
    for _ in range(2):
        assert_problem(answer := send(edge, line, key), 404, "not_found")
        assert not replayed(answer)
        assert_problem(answer := send(edge, line, key, token=reader), 403, "forbidden")
        assert not replayed(answer)
    edge.accept(activation(line))
    answer = send(edge, line, key)
    assert (answer.status_code, replayed(answer)) == (200, False)


@pytest.mark.parametrize("raw", [b"{", b" ", b"\xff", b'{"reason": NaN}'])
def test_broken_json_is_a_400_that_leaves_the_key_unused(edge: Edge, raw: bytes) -> None:
    line, key = edge.fresh(), fresh_key()
    for _ in range(2):
        assert_problem(answer := send(edge, line, key, content=raw), 400, "invalid_request")
        assert not replayed(answer)
    answer = send(edge, line, key)
    assert (answer.status_code, replayed(answer)) == (200, False)


# One key, one request.


@pytest.mark.parametrize(
    "other",
    [
        {"json": {"reason": "another"}},
        {"content": dumps(REASON) + b" "},
        {"content": b'{"reason": 5}'},
    ],
    ids=str,
)
def test_another_body_under_a_key_is_an_audited_422_and_keeps_the_first_outcome(
    edge: Edge, other: dict[str, Any]
) -> None:
    line, key = edge.fresh(), fresh_key()
    first = send(edge, line, key, content=dumps(REASON))
    before = end(edge)
    for _ in range(2):
        answer = send(edge, line, key, **other)
        problem = assert_problem(answer, 422, "idempotency_key_reused")
        assert problem["errors"] == []
        assert not replayed(answer)
    assert end(edge) == before + 2
    again = send(edge, line, key, content=dumps(REASON))
    assert (body(again), replayed(again)) == (body(first), True)
    entries = edge.data(f"/v1/audit-logs?organization_id={ORGANIZATION}&outcome=refused&limit=100")
    reused = [
        e for e in entries if e["code"] == "idempotency_key_reused" and e["position"] > before
    ]
    assert [entry["resource"]["id"] for entry in reused] == [line] * 2


def test_a_key_belongs_to_one_credential_and_one_path_to_the_letter(edge: Edge) -> None:
    line, other, key = edge.fresh(), edge.fresh(), fresh_key()
    colleague = edge.token("service_lines:manage", "read", workspace_id=WORKSPACE)
    assert send(edge, line, key).status_code == 200
    assert send(edge, other, key).status_code == 200
    assert_problem(send(edge, line, key, token=colleague), 409, "invalid_state")
    assert_problem(send(edge, line, key.upper()), 409, "invalid_state")
    answer = send(edge, line, key, "resume")
    assert (answer.status_code, replayed(answer)) == (200, False)
    assert replayed(send(edge, line, key, "resume"))


def test_another_tenant_gets_no_replay_under_the_same_key(edge: Edge) -> None:
    line, key = edge.fresh(), fresh_key()
    stranger = edge.token("service_lines:manage", organization_id="ORG-26-000009")
    assert send(edge, line, key).status_code == 200
    assert_problem(send(edge, line, key, token=stranger), 404, "not_found")


def test_facts_ignore_the_key(edge: Edge) -> None:
    line, headers = edge.fresh(), {"idempotency-key": fresh_key()}
    for _ in range(2):
        event = dumps(fact("execution.checked_in", line))
        content = {"content-type": "application/cloudevents+json"} | headers
        answer = edge.post("/v1/facts", content=event, headers=content)
        assert (answer.status_code, replayed(answer)) == (201, False)


# The form of a key.

LONG = "x" * 256
MALFORMED = ["", " ", '""', "a b", '"a b"', "a\tb", LONG, f'"{LONG}"', "\xe4", "a\x7fb"]


@pytest.mark.parametrize("key", MALFORMED, ids=ascii)
def test_a_malformed_key_is_a_422_after_a_404_and_before_a_409(edge: Edge, key: str) -> None:
    line, raw = edge.fresh(), [(b"idempotency-key", key.encode("latin-1"))]
    edge.post(f"/v1/execution/{line}/pause", json=REASON)

    def ask(path: str) -> httpx.Response:
        return edge.post(path, json=REASON, headers=raw)

    problem = assert_problem(ask(f"/v1/execution/{line}/pause"), 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/Idempotency-Key"]
    assert not documented(edge, key.strip())
    assert_problem(ask(f"/v1/execution/{edge.fresh_id()}/pause"), 404, "not_found")


@pytest.mark.parametrize("key", ["!", "~" * 255, '"', '"!', "8e03978e-40d5-43e8-bc93-6894a57f9324"])
def test_any_visible_character_may_be_in_a_key(edge: Edge, key: str) -> None:
    line = edge.fresh()
    assert documented(edge, key)
    assert send(edge, line, key).status_code == 200
    assert replayed(send(edge, line, key))


def documented(edge: Edge, key: str) -> bool:
    """True if the OpenAPI document allows the key."""
    pause = edge.get("/openapi.json").json()["paths"]["/v1/execution/{line_id}/pause"]["post"]
    (parameter,) = (p for p in pause["parameters"] if p["name"] == "Idempotency-Key")
    return re.search(parameter["schema"]["pattern"], key) is not None


def test_two_keys_in_a_request_are_a_422(edge: Edge) -> None:
    headers = [("idempotency-key", "a"), ("idempotency-key", "a")]
    path = f"/v1/execution/{edge.fresh()}/pause"
    assert_problem(edge.post(path, json=REASON, headers=headers), 422, "invalid_request")


def test_a_quoted_key_equals_the_bare_key(edge: Edge) -> None:
    line, key = edge.fresh(), fresh_key()
    first = send(edge, line, f'"{key}"')
    for form in (key, f'"{key}"', f"  {key} "):
        again = send(edge, line, form)
        assert (again.content, replayed(again)) == (first.content, True)


@pytest.mark.parametrize("host", ["[::1]:8000", "a%2Fb", "A_B", "ledger.test:", "127.0.0.1"])
def test_a_key_is_the_same_under_any_host_header(edge: Edge, host: str) -> None:
    line, key = edge.fresh(), fresh_key()
    assert send(edge, line, key).status_code == 200
    answer = send(edge, line, key, headers={"host": host})
    assert (answer.status_code, replayed(answer)) == (200, True)


# Expiry, and commands in flight.


def test_commands_are_carried_out_and_replayed_while_the_view_is_stopped(
    settings: Settings, conninfo: str
) -> None:
    new = "LIN-26-000077"

    async def check() -> None:
        async with degraded(settings, conninfo) as (service, _):

            async def pause(line: str) -> httpx.Response:
                path, headers = f"/v1/execution/{line}/pause", {"idempotency-key": line}
                return await service.http.post(path, json=REASON, headers=headers)

            await service.accept(activation(new))
            first, again = await pause(LINE), await pause(LINE)
            assert (first.status_code, again.status_code) == (200, 200)
            assert (body(again), replayed(first), replayed(again)) == (body(first), False, True)
            # The view has never seen this line, so there is nothing to show.
            for _ in range(2):
                unseen = await pause(new)
                assert_problem(unseen, 503, "behind")
                assert not replayed(unseen), "the answer is none of before"
        paused = "SELECT 1 FROM ledger.ledger_events WHERE topic = 'execution.paused/1'"
        assert len(query(conninfo, paused)) == 2

    asyncio.run(check())
