"""Many lines are paused and resumed by one request (contract, Reading)."""

import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import psycopg
import pytest

from ledger.app.composition.api import create_api
from ledger.app.settings import Settings
from ledger.engine.http.reading import Query
from ledger.features.lines.routes.executions import Filters
from ledger.features.lines.routes.holds import LineFilter
from tests.engine.http.test_idempotency_key import await_end, end
from tests.support.audits import SIBLING, Tenant
from tests.support.data_dirs import MASTER_KEY
from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, activation, fact

REASON = "Budget of the quarter"
MANY = ("read", "service_lines:manage", "audit:read")
_keys = itertools.count(1)


def many(tenant: Tenant, action: str = "pause", **body: Any) -> httpx.Response:
    """Pause or resume many lines: ``lines`` are their ids. A pause has a reason unless given."""
    token, key = body.pop("token", tenant.token), body.pop("key", None)
    if "lines" in body:
        body["filter"] = {"service_line_id": body.pop("lines")}
    if action == "pause":
        body = {"reason": REASON} | body
    headers = {} if key is None else {"idempotency-key": key}
    return tenant.edge.post(f"/v1/execution/{action}", token, json=body, headers=headers)


def items(answer: httpx.Response) -> list[tuple[str, str, str]]:
    """(line, outcome, state) of each line; the numbers of the answer are those of its lines."""
    assert answer.status_code == 200, answer.text
    data, meta = answer.json()["data"], answer.json()["meta"]
    counts = Counter(each["outcome"] for each in data)
    changed = counts["paused"] + counts["resumed"]
    numbers = {"matched": len(data), "changed": changed}
    assert meta == numbers | {word: counts[word] for word in ("unchanged", "refused")}
    return [(each["service_line_id"], each["outcome"], each["state"]) for each in data]


def holds(tenant: Tenant, line: str) -> list[str]:
    return [
        hold["hold"] for hold in tenant.edge.data(f"/v1/execution/{line}", tenant.token)["holds"]
    ]


# Outcomes.


def test_each_line_has_its_outcome_newest_first(tenant: Tenant) -> None:
    edge, token = tenant.edge, tenant.token
    idle, held, blocked = tenant.line(name="Idle"), tenant.line(), tenant.line()
    tenant.pause(held)
    blocker = {"blocker_id": "b", "cause": "approval_gap"}
    edge.accept(fact("execution.blocked", blocked, blocker), token=token)
    before = end(edge)
    answer = many(tenant, lines=[idle, held, blocked])
    assert items(answer) == [
        (blocked, "paused", "paused"),
        (held, "unchanged", "paused"),
        (idle, "paused", "paused"),
    ]
    assert [each["name"] for each in answer.json()["data"]] == [None, None, "Idle"]
    assert {each["code"] for each in answer.json()["data"]} == {None}
    assert answer.headers["ledger-position"] == str(before)
    assert end(edge) == before + 2
    assert holds(tenant, blocked) == ["operator"]
    again = many(tenant, "resume", filter={"state": ["paused"]})
    assert items(again) == [
        (blocked, "resumed", "blocked"),
        (held, "resumed", "running"),
        (idle, "resumed", "running"),
    ]
    assert items(many(tenant, "resume", lines=[blocked])) == [(blocked, "unchanged", "blocked")]


def test_a_line_with_the_service_lines_hold_alone_is_paused_too(tenant: Tenant) -> None:
    line = tenant.line()
    tenant.edge.accept(fact("service_line.paused", line), token=tenant.token)
    assert items(many(tenant, "resume", lines=[line])) == [(line, "unchanged", "paused")]
    assert items(many(tenant, lines=[line])) == [(line, "paused", "paused")]
    assert sorted(holds(tenant, line)) == ["operator", "service_line"]
    assert items(many(tenant, "resume", lines=[line])) == [(line, "resumed", "paused")]
    assert holds(tenant, line) == ["service_line"]


def test_many_lines_are_paused_until_an_instant_and_a_hold_that_is_on_keeps_its_own(
    tenant: Tenant,
) -> None:
    line, held = tenant.line(), tenant.line()
    tenant.pause(held)
    until = "2026-06-01T00:00:00Z"
    assert [outcome for _, outcome, _ in items(many(tenant, lines=[line, held], until=until))] == [
        "unchanged",
        "paused",
    ]
    details = (tenant.edge.data(f"/v1/execution/{each}", tenant.token) for each in (line, held))
    ends = [(hold["reason"], hold["until"]) for each in details for hold in each["holds"]]
    assert ends == [(REASON, until), ("because", None)]


@pytest.mark.parametrize(("action", "outcome"), [("pause", "paused"), ("resume", "unchanged")])
def test_a_hold_whose_end_has_come_is_off_also_in_a_dry_run(
    tenant: Tenant, action: str, outcome: str
) -> None:
    line, until = tenant.line(), tenant.edge.clock() + timedelta(hours=1)
    many(tenant, lines=[line], until=until.isoformat())
    tenant.edge.clock.advance(hours=1)
    dry = many(tenant, action, lines=[line], dry_run=True)
    assert [each for _, each, _ in items(dry)] == [outcome]
    assert many(tenant, action, lines=[line]).json() == dry.json()


def test_closed_lines_are_left_out_and_no_match_is_a_200(tenant: Tenant) -> None:
    line, closed = tenant.line(), tenant.line()
    tenant.edge.accept(fact("service_line.closed", closed), token=tenant.token)
    assert items(many(tenant, lines=[closed, "LIN-26-999999", "?"])) == []
    assert items(many(tenant, filter={"state": ["closed"]})) == []
    assert items(many(tenant, filter={"state": ["closed", "running"]})) == [
        (line, "paused", "paused")
    ]


def test_each_line_is_recorded_and_audited_as_a_pause_of_its_own(tenant: Tenant) -> None:
    one, other, held = (tenant.line() for _ in range(3))
    tenant.pause(held)
    before = tenant.log()
    answer = many(tenant, lines=[one, other, held])
    entries = tenant.log()[len(before) :]
    assert [(e["action"], e["resource"]["id"], e["outcome"], e["reason"]) for e in entries] == [
        ("execution.pause", line, "succeeded", REASON) for line in (other, one)
    ]
    assert {entry["request_id"] for entry in entries} == {answer.headers["x-request-id"]}
    assert [entry["position"] for entry in entries] == [end(tenant.edge) - 1, end(tenant.edge)]


def test_a_line_that_changed_after_the_views_is_judged_by_what_holds(tenant: Tenant) -> None:
    edge = tenant.edge
    closing, other, begun = tenant.line(), tenant.line(), end(edge)
    with (
        edge.views_left_to_the_projector(),
        psycopg.connect(edge.conninfo) as connection,
        ThreadPoolExecutor(2) as pool,
    ):
        # The lock stops the projector before the closing.
        connection.execute("LOCK TABLE ledger.projection IN EXCLUSIVE MODE")
        pool.submit(edge.accept, fact("service_line.closed", closing), token=tenant.token)
        await_end(edge, begun + 1)
        future = pool.submit(many, tenant, lines=[closing, other])
        await_end(edge, begun + 3)
        connection.rollback()
        answer = future.result(10)
    assert items(answer) == [(other, "paused", "paused"), (closing, "refused", "closed")]
    assert [each["code"] for each in answer.json()["data"]] == [None, "invalid_state"]
    assert answer.headers["ledger-position"] == str(begun)
    assert tenant.entries_after(*tenant.log()[:-2]) == [
        ("execution.pause", other, "succeeded", None),
        ("execution.pause", closing, "refused", "invalid_state"),
    ]


def test_a_line_whose_hold_ended_is_read_as_the_answer_has_it(tenant: Tenant) -> None:
    edge, line = tenant.edge, tenant.line()
    many(tenant, lines=[line], until=(edge.clock() + timedelta(hours=1)).isoformat())
    edge.clock.advance(hours=1)
    begun = end(edge)

    def ask_and_read() -> tuple[list[tuple[str, str, str]], list[str]]:
        return items(many(tenant, "resume", lines=[line])), holds(tenant, line)

    with (
        edge.views_left_to_the_projector(),
        psycopg.connect(edge.conninfo) as connection,
        ThreadPoolExecutor(1) as pool,
    ):
        # The lock stops the projector before the lifting.
        connection.execute("LOCK TABLE ledger.projection IN EXCLUSIVE MODE")
        future = pool.submit(ask_and_read)
        await_end(edge, begun + 1)
        connection.rollback()
        assert future.result(10) == ([(line, "unchanged", "running")], [])


# The filter.


def test_the_filter_has_each_filter_of_the_list() -> None:
    of_list = Filters.model_fields.keys() - Query.model_fields.keys()
    others = {"organization_id"}
    assert LineFilter.model_fields.keys() == of_list - others | {"service_line_id"}


@pytest.fixture(scope="module")
def varied(edge: Edge) -> Tenant:
    """A tenant with lines that differ in each filter."""
    tenant = Tenant(edge)
    for model, product, workspace in (
        ("capacity", "talent", SIBLING),
        ("agent_runtime", "agent_gateway", "WS-26-000001"),
        ("ongoing_sla", "ods", "WS-26-000001"),
    ):
        line = tenant.line(
            model=model,
            product=product,
            workspace_id=workspace,
            project_tags=[f"PRJ-{model}", "a,b"],
            resources=[{"type": "person", "id": f"{model}-ada"}],
        )
        if model != "ongoing_sla":
            who = {"assignee": "Amara", "due_at": "2026-04-01T00:00:00Z"}
            blocker = who if model == "capacity" else {}
            cause = "capacity_issue" if model == "capacity" else "approval_gap"
            signal = {"signal": "sla_compliance", "status": "red"}
            edge.accept(
                fact("execution.blocked", line, {"blocker_id": "b", "cause": cause} | blocker),
                fact("health.signal_reported", line, signal),
                token=tenant.token,
            )
    return tenant


@pytest.mark.parametrize(
    "filter",
    [
        {"state": ["blocked"]},
        {"state": ["running", "blocked"], "product_line": ["ods", "talent"]},
        {"execution_model": ["capacity", "ongoing_sla"]},
        {"product_line": ["agent_gateway"]},
        {"workspace_id": [SIBLING]},
        {"project_tag": ["PRJ-capacity", "PRJ-ongoing_sla"]},
        {"blocked_cause": ["capacity_issue"]},
        {"health": ["none"]},
        {"health": ["amber", "red"], "workspace_id": [SIBLING, "WS-26-000009"]},
        {"resource_id": ["capacity-ada"]},
        {"resource_id": ["capacity-ada", "ongoing_sla-ada"], "state": []},
        {"assignee": ["Amara", "Nobody"]},
        {"unassigned": True, "overdue": False},
        {"overdue": True, "health": ["amber", "red"]},
    ],
    ids=str,
)
def test_a_filter_finds_the_lines_that_the_list_finds(
    varied: Tenant, filter: dict[str, Any]
) -> None:
    parameters = {name: ["true"] if words is True else words for name, words in filter.items()}
    query = {name: ",".join(words) for name, words in parameters.items() if words}
    listed = varied.edge.data("/v1/execution", varied.token, params=query)
    assert 0 < len(listed) < 3
    found = [line for line, *_ in items(many(varied, filter=filter, dry_run=True))]
    assert found == [row["service_line_id"] for row in listed]
    assert items(many(varied, filter=filter | {"service_line_id": found[:1]}, dry_run=True)) == [
        (found[0], "paused", "paused")
    ]


def test_a_word_with_a_comma_is_one_word(varied: Tenant) -> None:
    assert len(items(many(varied, filter={"project_tag": ["a,b"]}, dry_run=True))) == 3


# Refusals of the whole request.


@pytest.mark.parametrize(
    ("action", "body", "pointer"),
    [
        ("pause", {}, "/filter"),
        ("pause", {"filter": {}}, "/filter"),
        ("pause", {"filter": {"state": [], "service_line_id": []}}, "/filter"),
        ("pause", {"filter": {"state": ["stopped"]}}, "/filter/state/0"),
        ("pause", {"filter": {"state": "blocked"}}, "/filter/state"),
        ("pause", {"filter": {"project_tag": [""]}}, "/filter/project_tag/0"),
        ("pause", {"filter": {"service_line_id": ["x"] * 1001}}, "/filter/service_line_id"),
        ("pause", {"filter": {"state": ["idle"], "as_of": "2026-01-01"}}, "/filter/as_of"),
        ("pause", {"filter": {"state": ["idle"], "sort": "state_since"}}, "/filter/sort"),
        ("pause", {"lines": ["x"], "reason": None}, "/reason"),
        ("pause", {"lines": ["x"], "expect": -1}, "/expect"),
        ("pause", {"lines": ["x"], "dry_run": 1}, "/dry_run"),
        ("pause", {"filter": {"overdue": "true"}}, "/filter/overdue"),
        ("pause", {"filter": {"overdue": False}}, "/filter"),
        ("pause", {"lines": ["x"], "until": "2026-04-15T11:00:00Z"}, "/until"),
        ("pause", {"lines": ["x"], "until": "2027-06-01T00:00:00Z"}, "/until"),
        ("resume", {"lines": ["x"], "until": "2090-01-01T00:00:00Z"}, "/until"),
    ],
    ids=str,
)
def test_a_wrong_request_is_a_422_that_is_audited_once(
    tenant: Tenant, action: str, body: dict[str, Any], pointer: str
) -> None:
    before = tenant.log()
    problem = assert_problem(many(tenant, action, **body), 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert tenant.entries_after(*before) == [
        (f"execution.{action}", None, "refused", "invalid_request")
    ]


def test_another_number_than_expected_is_a_409_that_pauses_nothing(tenant: Tenant) -> None:
    lines, before = [tenant.line() for _ in range(2)], tenant.log()
    problem = assert_problem(many(tenant, lines=lines, expect=3), 409, "invalid_state")
    assert problem["detail"] == "The filter matches 2 lines."
    assert tenant.entries_after(*before) == [("execution.pause", None, "refused", "invalid_state")]
    assert len(items(many(tenant, lines=lines, expect=2))) == 2


# A dry run.


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_a_dry_run_tells_the_outcomes_and_records_nothing(tenant: Tenant, action: str) -> None:
    edge, token = tenant.edge, tenant.token
    lines = [tenant.line() for _ in range(4)]
    for line in lines[:2]:
        tenant.pause(line)
    edge.accept(
        fact("service_line.paused", lines[0]),
        fact("execution.blocked", lines[1], {"blocker_id": "b", "cause": "approval_gap"}),
        token=token,
    )

    def rows() -> Any:
        return end(edge), edge.select("SELECT count(*) FROM ledger.idempotency")

    before, key = rows(), f"dry-{next(_keys)}"
    dry = many(tenant, action, lines=lines, dry_run=True, key=key)
    assert rows() == before
    real = many(tenant, action, lines=lines, expect=dry.json()["meta"]["matched"], key=key)
    assert real.json() == dry.json()
    assert {outcome for _, outcome, _ in items(real)} == {f"{action}d", "unchanged"}


def test_a_refused_dry_run_records_nothing(tenant: Tenant) -> None:
    line, before = tenant.line(), end(tenant.edge)
    key = f"dry-{next(_keys)}"
    dry = {"dry_run": True, "key": key, "lines": [line]}
    assert_problem(many(tenant, **dry, reason=""), 422, "invalid_request")
    assert_problem(many(tenant, **dry, expect=2), 409, "invalid_state")
    stranger = many(tenant, **dry, organization_id=ORGANIZATION)
    assert_problem(stranger, 403, "forbidden")
    assert end(tenant.edge) == before
    assert tenant.edge.select(f"SELECT FROM ledger.idempotency WHERE key = '{key}'") == []


def test_a_dry_run_without_the_permission_leaves_the_entry_of_its_refusal(tenant: Tenant) -> None:
    token, before = tenant.new_token("read"), tenant.log()
    answer = many(tenant, lines=["LIN-26-999999"], dry_run=True, token=token)
    assert_problem(answer, 403, "forbidden")
    assert tenant.entries_after(*before) == [("execution.pause", None, "refused", "forbidden")]


# Tenants.


def test_a_body_that_names_another_organization_is_a_403(tenant: Tenant) -> None:
    line = tenant.line()
    before = tenant.log()
    answer = many(tenant, organization_id=ORGANIZATION, filter={"state": ["?"]})
    assert_problem(answer, 403, "forbidden")
    assert tenant.entries_after(*before) == [("execution.pause", None, "refused", "forbidden")]
    own = many(tenant, lines=[line], organization_id=tenant.organization)
    assert items(own) == [(line, "paused", "paused")]


def test_nobody_pauses_a_line_that_the_credential_does_not_see(tenant: Tenant) -> None:
    own, elsewhere = tenant.line(), tenant.line(workspace_id=SIBLING)
    foreign = tenant.edge.fresh()
    narrow = tenant.new_token(*MANY, workspace_id=SIBLING)
    lines = [own, elsewhere, foreign]
    assert items(many(tenant, lines=lines, token=narrow)) == [(elsewhere, "paused", "paused")]
    assert items(many(tenant, filter={"workspace_id": ["WS-26-000001"]}, token=narrow)) == []
    found = many(tenant, lines=lines, token=narrow, organization_id=tenant.organization)
    assert items(found) == [(elsewhere, "unchanged", "paused")]
    assert [line for line, *_ in items(many(tenant, lines=lines))] == [elsewhere, own]
    assert tenant.edge.data(f"/v1/execution/{foreign}")["holds"] == []


def test_an_administrator_names_the_organization(tenant: Tenant) -> None:
    line, foreign = tenant.line(), tenant.edge.fresh()
    admin = tenant.edge.token("admin", organization_id=None)
    lines, before = [line, foreign], end(tenant.edge)
    problem = assert_problem(many(tenant, lines=lines, token=admin), 422, "invalid_request")
    assert problem["errors"] == [{"pointer": "/organization_id", "detail": "is required"}]
    assert end(tenant.edge) == before + 1
    named = many(tenant, lines=lines, token=admin, organization_id=tenant.organization)
    assert items(named) == [(line, "paused", "paused")]
    (entry,) = tenant.log()[-1:]
    assert (entry["action"], entry["resource"]["id"]) == ("execution.pause", line)


# Many.


@pytest.fixture(scope="module")
def crowd(edge: Edge) -> Tenant:
    """A tenant with 1,001 lines; 250 of them belong to a project."""
    tenant = Tenant(edge)
    for numbers in (range(1000), range(1000, 1001)):
        edge.accept(
            *(
                activation(
                    edge.fresh_id(),
                    organization_id=tenant.organization,
                    project_tags=[f"PRJ-{number < 250:d}", f"PRJ-{number < 1000:d}000"],
                )
                for number in numbers
            ),
            token=tenant.token,
        )
    return tenant


def test_at_most_1000_lines_are_paused_together(crowd: Tenant) -> None:
    running = {"state": ["running"]}
    problem = assert_problem(many(crowd, filter=running, expect=1001), 422, "invalid_request")
    assert problem["detail"] == "The filter matches 1001 lines: at most 1000 are allowed."
    assert [error["pointer"] for error in problem["errors"]] == ["/filter"]
    fitting = many(crowd, filter=running | {"project_tag": ["PRJ-1000"]}, dry_run=True)
    assert fitting.json()["meta"]["matched"] == 1000


def test_many_lines_are_recorded_in_slots_also_while_no_other_organization_waits(
    crowd: Tenant,
) -> None:
    before, body = end(crowd.edge), {"filter": {"project_tag": ["PRJ-1"]}, "reason": REASON}
    # The writer of a new worker knows of no other organization.
    app = create_api(Settings(master_key=MASTER_KEY), crowd.edge.conninfo, crowd.edge.clock)
    with crowd.edge.second_worker(app) as worker:
        answer = worker.post("/v1/execution/pause", crowd.token, json=body)
    assert len(items(answer)) == 250
    appends = crowd.edge.select(
        "SELECT count(*) FROM ledger.ledger_events"
        f" WHERE notification_id > {before} GROUP BY xmin::text"
    )
    assert sorted(size for (size,) in appends) == [50, 100, 100]
