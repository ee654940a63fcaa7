"""Rules for every route: a route that breaks one of them fails here, under its own name."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Mapping
from typing import NamedTuple

import pytest

from ledger import features
from ledger.app.features import page_routers, projections, routers
from ledger.engine.http.lean import LeanRoute
from ledger.engine.page.pages import PageRoute
from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.reads.question import Answer, Question
from ledger.engine.values.values import format_id
from tests.support.edge import Edge, assert_problem
from tests.support.fact_samples import ON_OPEN_LINES
from tests.support.facts import ORGANIZATION, WORKSPACE, fact
from tests.support.visitor import Visitor
from tests.support.watches import watched
from tests.support.webhook_api import OTHER_ORGANIZATION, OTHER_WORKSPACE

PERMISSIONS = (
    "read", "write", "service_lines:manage", "webhooks:manage", "audit:read", "runs:erase",
    "keys:manage", "statements:issue", "watches:manage",
)  # fmt: skip
ROUTES = [r for each in routers() for r in each.routes if isinstance(r, LeanRoute)]
READS = [r for r in ROUTES if r.methods == {"GET"}]
PAGES = [r for each in page_routers() for r in each.routes if isinstance(r, PageRoute)]
WRITES = [r for r in ROUTES if r.methods != {"GET"}]
RECORDS_NOTHING = ("/v1/runs/{run_id}/heartbeat", "/v1/watches/preview", "/v1/otlp/v1/traces")
"""Routes other than GET whose refusals have no audit entry."""

COMMANDS = [
    r for r in WRITES if (r.openapi_extra or {}).get("requestBody") and "facts" not in r.path
]
OWNED = (
    "line_id", "run_id", "endpoint_id", "event_id", "key_id", "statement_id", "watch_id",
    "alert_id", "session_id",
)  # fmt: skip
"""Path parameters that name something of a tenant."""

ENDLESS = "/v1/events/stream"

ALLOWS = {
    "read": "GET /v1/(execution|runs|directory|search|events|event-types)(/.*)?"
    "|GET /v1/(usage|compare|statements|watches|alerts|sources)(/.*)?|POST /v1/watches/preview",
    "write": "POST /v1/(facts(/batch)?|otlp/v1/traces|runs/{run_id}/heartbeat)",
    "service_lines:manage": "POST /v1/execution/({line_id}/)?(pause|resume)"
    "|POST /v1/alerts/({alert_id}/)?acknowledge",
    "webhooks:manage": "[A-Z]+ /v1/webhooks(/.*)?",
    "audit:read": "GET /v1/audit-logs(/export)?",
    "runs:erase": "POST /v1/runs/{run_id}/erase",
    "keys:manage": "[A-Z]+ /v1/(keys|sessions)(/.*)?",
    "statements:issue": "POST /v1/statements(/.*)?",
    "watches:manage": "POST /v1/watches|(PATCH|DELETE) /v1/watches/{watch_id}",
    "admin": "GET /v1/organizations",
    None: "GET /v1/(log/.*|credential)",
}
"""The routes that each permission opens (contract, Access), and those for every credential."""

REQUIRED = {
    "/v1/directory": {"type": "workspace"},
    "/v1/search": {"q": "1"},
    "/v1/audit-logs": {"organization_id": ORGANIZATION},
    "/v1/audit-logs/export": {"organization_id": ORGANIZATION},
    "/v1/compare": {"then": "2026-04-01"},
    "/v1/compare/export": {"then": "2026-04-01"},
    "/v1/credential": {"service_line_id": "{line_id}"},
}
"""Parameters without which a read is a 422, or reads no view. Braces are those of paths."""

FILTERS = {
    "action": "key.create", "actor_type": "user", "after": "EVT-26-000001",
    "blocked_cause": "approval_gap", "execution_model": "capacity", "from": "2026-04-02",
    "group_by": "day", "has_alerts": "true", "health": "red", "occurred_from": "2026-04-01",
    "occurred_to": "2026-04-10", "outcome": "refused", "overdue": "true", "product_line": "ods",
    "recorded_after": "2026-04-01", "recorded_until": "2026-04-10", "severity": "info",
    "sort": "state_since", "state": "paused", "status": "completed", "then": "2026-04-02",
    "time_zone": "Asia/Tokyo", "to": "2026-04-10", "type": "run.started", "unassigned": "true",
}  # fmt: skip
"""Filters that do not take any word, and a word that each takes."""
OWN_FILTERS = {
    "/v1/directory": {"type": "resource"},
    "/v1/alerts": {"sort": "severity", "status": "open"},
    "/v1/audit-logs": {"after": "AUD-26-000001"},
    "/v1/webhooks/{endpoint_id}/deliveries": {"status": "failed"},
}
"""The filters whose values are others in a list."""
OF_INSTANTS = ("/v1/keys",)
"""Lists whose cursors are an instant alone, which some other lists' cursors have too."""
GARBAGE = (
    "", "x", "garbage!", "====", "null", "é", "a b", "AAAA", "e30", "bnVsbA", "W10", "A" * 5000,
    "=" * 9,
)  # fmt: skip

_VIEWS = {table.name: view.name for view in projections() for table in view.tables}


class Target(NamedTuple):
    """A service with a line, a run, an event and an endpoint of a tenant."""

    edge: Edge
    tenant: dict[str, str | None]
    names: Mapping[str, str]
    """The values of the parameters in paths."""
    tokens: dict[tuple[object, ...], str]

    def path(self, route: LeanRoute) -> str:
        return route.path.replace("{act:path}", "act").format(**self.names)

    def query(self, route: LeanRoute) -> dict[str, str]:
        required = REQUIRED.get(route.path, {}).items()
        return {name: value.format(**self.names) for name, value in required}

    def token(self, *permissions: str, **tenant: str | None) -> str:
        """The token of these permissions, of another tenant if one is given: one for all tests."""
        whose = self.tenant | tenant
        key = (*permissions, *whose.values())
        if key not in self.tokens:
            self.tokens[key] = self.edge.token(*permissions, **whose)
        return self.tokens[key]

    def holder(self, route: LeanRoute) -> str:
        """The token of all permissions; an administrator's, if only administrators may."""
        if is_of_administrators(route):
            return self.token("admin", organization_id=None, workspace_id=None)
        return self.token(*PERMISSIONS)


def is_of_administrators(route: LeanRoute) -> bool:
    return (route.openapi_extra or {})["x-permission"] == "admin"


def label(route: LeanRoute) -> str:
    return f"{'/'.join(sorted(route.methods or ()))} {route.path}"


def reads_views(route: LeanRoute) -> bool:
    # Keys and sessions are read from the tables that authentication reads, which need no view.
    without = ("/v1/event-types", "/v1/log/", "/v1/keys", "/v1/sessions")
    return not route.path.startswith(without)


def parameters_of(route: LeanRoute) -> set[str]:
    """The names of the parameters in the query."""
    found = inspect.signature(route.endpoint, eval_str=True).parameters.values()
    return {
        name.rstrip("_") for each in found for name in getattr(each.annotation, "model_fields", ())
    }


def takes_as_of(route: LeanRoute) -> bool:
    return "as_of" in parameters_of(route)


LISTS = [r for r in READS if {"cursor", "limit"} <= parameters_of(r)]


def statement_of(edge: Edge, token: str) -> str:
    period = {"from": "2026-03-01", "to": "2026-04-01"}
    statement: str = edge.post("/v1/statements", token, json=period).json()["data"]["id"]
    return statement


@pytest.fixture(scope="module")
def target(edge: Edge) -> Target:
    line = edge.fresh()
    blocker = {"blocker_id": "b", "cause": "approval_gap"}
    run, *_ = edge.accept(
        fact("run.started", None, {"service_line_id": line, "input": {"said": 1}}),
        fact("execution.checked_in", line, {"hours": 1}),
        fact("execution.blocked", line, blocker),
    )
    tenant: dict[str, str | None] = {
        "organization_id": ORGANIZATION,
        "workspace_id": WORKSPACE,
    }
    hook = edge.post(
        "/v1/webhooks",
        edge.token("webhooks:manage", **tenant),
        json={"url": "https://93.184.216.34/", "event_types": ["*"]},
    ).json()["data"]["id"]
    key = edge.post(
        "/v1/keys", edge.token("read", "keys:manage", **tenant), json={"permissions": ["read"]}
    ).json()["data"]["id"]
    ((recorded_at,),) = edge.select(
        f"SELECT recorded_at FROM ledger.ledger_events WHERE notification_id = {run['position']}"
    )
    Visitor(edge, edge.token("read", **tenant))
    session = edge.data("/v1/sessions", edge.token("keys:manage", **tenant))[0]["id"]
    watch, alert = watched(edge, edge.token(*PERMISSIONS, **tenant), line)
    names = {
        "line_id": line,
        "run_id": run["subject"],
        "endpoint_id": hook,
        "key_id": key,
        "statement_id": statement_of(edge, edge.token("statements:issue", **tenant)),
        "watch_id": watch,
        "alert_id": alert,
        "session_id": session,
        "event_id": format_id("EVT", recorded_at.year, run["position"]),
        "type": "execution.paused",
        "position": str(run["position"]),
    }
    return Target(edge, tenant, names, {})


@pytest.fixture
def questions(target: Target, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Question, int | None]]:
    """The questions that reads put to the views, with their minimum positions; filled in later."""
    reads, principals = target.edge.service.app.state.services.reads, []
    ask = reads.ask

    async def listen(question: Question, min_position: int | None = None) -> Answer:
        principals.append((question, min_position))
        answer: Answer = await ask(question, min_position)
        return answer

    monkeypatch.setattr(reads, "ask", listen)
    return principals


def test_every_router_is_served() -> None:
    modules = (
        importlib.import_module(m.name)
        for m in pkgutil.walk_packages(features.__path__, f"{features.__name__}.")
        if {"routes", "page"} & {*m.name.split(".")}
    )
    served = [*routers(), *page_routers()]
    found = {module.__name__: module.router for module in modules if hasattr(module, "router")}
    lost = [name for name, router in found.items() if router not in served]
    assert lost == [], "name it in app/features.py"


def test_no_route_answers_the_requests_of_a_later_one() -> None:
    for route in ROUTES:
        path = re.sub("{.*?}", "any", route.path)
        takers = (r for r in ROUTES if r.path_regex.match(path) and route.methods & r.methods)
        assert label(next(takers)) == label(route), "in app/features.py its module comes first"


def test_every_route_of_the_api_is_a_lean_route() -> None:
    found = [route for each in routers() for route in each.routes]
    api = [route for route in found if getattr(route, "path", "").startswith("/v1")]
    assert len(api) >= len(ROUTES) > 20
    for route in api:
        assert isinstance(route, LeanRoute), "route_class=LeanRoute"


@pytest.mark.parametrize("route", ROUTES, ids=label)
def test_a_route_needs_the_permission_that_the_contract_names(route: LeanRoute) -> None:
    named = [name for name, routes in ALLOWS.items() if re.fullmatch(routes, label(route))]
    assert named == [(route.openapi_extra or {})["x-permission"]]


@pytest.mark.parametrize("route", ROUTES, ids=label)
def test_its_permission_alone_opens_a_route_before_an_unknown_parameter_is_refused(
    target: Target, route: LeanRoute
) -> None:
    needed, method = (route.openapi_extra or {})["x-permission"], next(iter(route.methods))
    admin = target.token("admin", organization_id=None, workspace_id=None)
    opening = [admin] if needed == "admin" else [admin, target.token(needed or "read")]
    for token in opening:
        answer = target.edge.request(method, f"{target.path(route)}?nonsense=1", token)
        assert_problem(answer, 422, "invalid_request")
    if needed is not None:
        token = target.token(*(other for other in PERMISSIONS if other != needed))
        for query in ("", "?nonsense=1"):
            answer = target.edge.request(method, target.path(route) + query, token)
            assert_problem(answer, 403, "forbidden")
    answer = target.edge.request(method, f"{target.path(route)}?nonsense=1", "garbage")
    assert_problem(answer, 401, "unauthorized")


@pytest.mark.parametrize("route", WRITES, ids=label)
def test_every_write_route_but_two_records_refusals_that_precede_its_command(
    route: LeanRoute,
) -> None:
    records = hasattr(route.endpoint, "on_refusal")
    assert records == (route.path not in RECORDS_NOTHING), "command_route or records_refusals"


@pytest.mark.parametrize("route", COMMANDS, ids=label)
def test_a_command_with_a_wrong_body_is_refused_and_audited_under_its_own_action(
    target: Target, route: LeanRoute
) -> None:
    edge, method, path = target.edge, next(iter(route.methods)), target.path(route)
    before = edge.log()
    assert_problem(edge.request(method, path, target.token()), 403, "forbidden")
    answer = edge.request(method, path, target.token(*PERMISSIONS), json={"nonsense": 1})
    assert_problem(answer, 422, "invalid_request")
    assert edge.log() == before
    early, late = edge.select(
        "SELECT action FROM ledger.event WHERE audit = 'refused' ORDER BY position DESC LIMIT 2"
    )
    assert early == late, "command_route names the command that the route carries out"


@pytest.mark.parametrize("past", [False, True], ids=["present", "past"])
@pytest.mark.parametrize("route", READS, ids=label)
def test_a_read_names_the_views_whose_rows_its_statement_reads(
    target: Target, questions: list[tuple[Question, int | None]], route: LeanRoute, past: bool
) -> None:
    if route.path == ENDLESS or (past and not takes_as_of(route)):
        return
    query = target.query(route)
    if past:
        query["as_of"] = target.edge.clock().isoformat()
    target.edge.get(target.path(route), target.holder(route), params=query)
    assert bool(questions) == reads_views(route)
    for question, _ in questions:
        tables = set(re.findall(r"ledger\.(\w+)", question.read.sql))
        read = {_VIEWS[table] for table in tables if table in _VIEWS}
        assert "projection" in tables, "the statement begins with its {position}"
        # A statement of a position alone names the views that later statements read.
        if read or not question.read.views:
            assert question.read.views == read, "read_of names the views whose rows are read"
        is_short = question.read.planning is Planning.SHORT
        assert not (past and is_short), "read_of(…, past=past): a statement about the past is long"


@pytest.mark.parametrize("route", READS, ids=label)
@pytest.mark.parametrize(
    "tenant",
    [(OTHER_ORGANIZATION, None), (OTHER_ORGANIZATION, WORKSPACE), (ORGANIZATION, OTHER_WORKSPACE)],
    ids=str,
)
def test_no_read_shows_anything_of_another_tenant(
    target: Target, route: LeanRoute, tenant: tuple[str, str | None]
) -> None:
    if route.path == ENDLESS:
        return
    organization, workspace = tenant
    token = target.token(*PERMISSIONS, organization_id=organization, workspace_id=workspace)
    answer = target.edge.get(target.path(route), token, params=target.query(route))
    words = (route.path, *REQUIRED.get(route.path, {}).values())
    if any(f"{{{name}}}" in part for name in OWNED for part in words):
        assert_problem(answer, 404, "not_found")
    assert not any(target.names[name] in answer.text for name in OWNED), "where_tenant is missing"


@pytest.mark.parametrize("route", [r for r in READS if takes_as_of(r)], ids=label)
def test_later_events_do_not_change_a_read_of_the_past(target: Target, route: LeanRoute) -> None:
    edge, line, run = target.edge, target.names["line_id"], target.names["run_id"]
    edge.clock.advance(hours=1)
    query, token = {"as_of": edge.clock().isoformat()}, target.token(*PERMISSIONS)
    edge.clock.advance(hours=1)
    before = edge.get(target.path(route), token, params=query)
    assert before.status_code == 200, before.text
    edge.accept(
        *(fact(type, line, data) for type, data in ON_OPEN_LINES.items()),
        fact("run.requested", None, {"service_line_id": line}),
    )
    if edge.data(f"/v1/runs/{run}", token)["completed_at"] is None:
        edge.accept(fact("run.completed", run, {"tokens_used": 5}))
    edge.fresh()
    after = edge.get(target.path(route), token, params=query)
    assert after.text == before.text, "a read of the past must leave out rows after p.position"


@pytest.mark.parametrize("route", [r for r in READS if takes_as_of(r) and "{" in r.path], ids=label)
def test_lines_and_runs_that_begin_later_are_unknown_in_the_past(
    target: Target, route: LeanRoute
) -> None:
    edge, token = target.edge, target.token(*PERMISSIONS)
    query = {"as_of": edge.clock().isoformat()}
    edge.clock.advance(hours=1)
    line = edge.fresh()
    (run,) = edge.accept(fact("run.started", None, {"service_line_id": line}))
    statement = statement_of(edge, token)
    _, alert = watched(edge, token, line)
    names = {"line_id": line, "run_id": run["subject"], "statement_id": statement}
    path = route.path.format(**names, alert_id=alert)
    assert edge.get(path, token).status_code == 200
    assert_problem(edge.get(path, token, params=query), 404, "not_found")


@pytest.mark.parametrize("route", READS, ids=label)
def test_a_read_of_views_waits_for_the_requested_position(
    target: Target, questions: list[tuple[Question, int | None]], route: LeanRoute
) -> None:
    if route.path == ENDLESS:
        return
    headers, query = {"ledger-min-position": "1"}, target.query(route)
    target.edge.get(target.path(route), target.holder(route), headers=headers, params=query)
    expected = {1} if reads_views(route) else set()
    assert {least for _, least in questions} == expected, "the route takes request: ReadRequest"


def cursor_of(target: Target, route: LeanRoute) -> str:
    """A cursor of the list's first page."""
    if route.path == "/v1/sessions":
        Visitor(target.edge, target.holder(route))  # Earlier sessions may have ended.
    query = target.query(route) | {"limit": "1"}
    answer = target.edge.get(target.path(route), target.holder(route), params=query)
    cursor: str = answer.json()["meta"]["cursor"]
    assert cursor, "the list has no row: fill it in the fixture"
    return cursor


@pytest.mark.parametrize("route", LISTS, ids=label)
def test_a_cursor_serves_no_other_filter(target: Target, route: LeanRoute) -> None:
    path, token, query = target.path(route), target.holder(route), target.query(route)
    query |= {"cursor": cursor_of(target, route)}
    assert target.edge.get(path, token, params=query).status_code == 200
    for name in parameters_of(route) - {"cursor", "limit", "as_of", "now"}:
        value = OWN_FILTERS.get(route.path, FILTERS).get(name, FILTERS.get(name, "x"))
        answer = target.edge.get(path, token, params=query | {name: value})
        assert (name, answer.json().get("code")) == (name, "invalid_cursor")
        assert_problem(answer, 400, "invalid_cursor")


@pytest.mark.parametrize("route", LISTS, ids=label)
def test_a_cursor_serves_no_other_list(target: Target, route: LeanRoute) -> None:
    cursor = {"cursor": cursor_of(target, route)}
    for other in LISTS:
        paths = [target.path(other)] if other is not route and other.path not in OF_INSTANTS else []
        if "{line_id}" in other.path:
            paths.append(other.path.format(line_id=target.edge.fresh()))
        for path in paths:
            query = target.query(other) | cursor
            answer = target.edge.get(path, target.holder(other), params=query)
            assert (path, answer.json().get("code")) == (path, "invalid_cursor")
            assert_problem(answer, 400, "invalid_cursor")


@pytest.mark.parametrize("route", LISTS, ids=label)
def test_a_garbage_cursor_is_refused(target: Target, route: LeanRoute) -> None:
    for cursor in GARBAGE:
        query = target.query(route) | {"cursor": cursor}
        answer = target.edge.get(target.path(route), target.holder(route), params=query)
        assert_problem(answer, 400, "invalid_cursor")


@pytest.mark.parametrize("lacked", [*PERMISSIONS, None])
def test_only_its_permission_and_a_session_open_a_page(target: Target, lacked: str | None) -> None:
    token = target.token(*(other for other in PERMISSIONS if other != lacked))
    guest, nobody = Visitor(target.edge, token), Visitor(target.edge)
    form = guest.get("/ui/sessions").form("/ui/sign-out")
    for route in PAGES:
        if (route.openapi_extra or {})["x-permission"] == lacked:
            (method,) = route.methods or ()
            path, sent = target.path(route), form if method == "POST" else None
            assert nobody.request(method, path, data=sent).status == 401, label(route)
            if lacked is not None:
                page = guest.request(method, path, data=sent)
                assert page.status == 403, label(route)
                assert "Ask an administrator for the permission " in page.text, label(route)
                assert f"({lacked})." in page.text, label(route)


@pytest.mark.parametrize(
    "tenant",
    [(OTHER_ORGANIZATION, None), (OTHER_ORGANIZATION, WORKSPACE), (ORGANIZATION, OTHER_WORKSPACE)],
    ids=str,
)
def test_no_page_shows_anything_of_another_tenant_or_accepts_an_unknown_parameter(
    target: Target, tenant: tuple[str, str | None]
) -> None:
    organization, workspace = tenant
    token = target.token(*PERMISSIONS, organization_id=organization, workspace_id=workspace)
    guest = Visitor(target.edge, token)
    for route in PAGES:
        if route.methods == {"GET"} and route.path != "/ui/stream":
            page = guest.get(target.path(route))
            assert not any(target.names[name] in page.text for name in OWNED), label(route)
            assert "{" not in route.path or page.status != 200, label(route)
            assert guest.get(f"{target.path(route)}?nonsense=1").status == 422, label(route)
