"""What holds of every route: one that forgets it fails here, by its name."""

import importlib
import pkgutil
import re
from collections.abc import Mapping
from typing import NamedTuple

import pytest

from ledger.api import routes
from ledger.api.app import ROUTED
from ledger.api.lean import LeanRoute
from ledger.reads.question import Answer, Question
from projections import projections
from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, WORKSPACE, fact
from tests.support.hooks import OTHER_ORGANIZATION, OTHER_WORKSPACE

PERMISSIONS = (
    "read", "write", "service_lines:manage", "webhooks:manage", "audit:read", "runs:erase",
)  # fmt: skip
ROUTES = [r for module in ROUTED for r in module.router.routes if isinstance(r, LeanRoute)]
READS = [r for r in ROUTES if r.methods == {"GET"}]
WRITES = [r for r in ROUTES if r.methods != {"GET"}]
COMMANDS = [
    r for r in WRITES if (r.openapi_extra or {}).get("requestBody") and "facts" not in r.path
]
OWNED = ("line_id", "run_id", "endpoint_id", "event_id")
"""Parameters that name what belongs to a tenant."""

ENDLESS = "/v1/events/stream"

_VIEWS = {table.name: view.name for view in projections() for table in view.tables}
_POSITION_OF = re.compile(r"FROM ledger\.projection\s+WHERE name (?:IN \(([^)]*)\)|= ('\w+'))")


class Asked(NamedTuple):
    """What is there to be asked about."""

    edge: Edge
    tenant: Mapping[str, str]
    names: Mapping[str, str]
    """What a path's parameters name."""

    def path(self, route: LeanRoute) -> str:
        return route.path.format(**self.names)

    def token(self, *permissions: str) -> str:
        return self.edge.token(*permissions, **self.tenant)


def named(route: LeanRoute) -> str:
    return f"{'/'.join(sorted(route.methods or ()))} {route.path}"


def knows_the_past(route: LeanRoute) -> bool:
    return any(one.name == "as_of" for one in route.dependant.query_params) or any(
        "as_of" in getattr(one.field_info.annotation, "model_fields", {})
        for one in route.dependant.query_params
    )


@pytest.fixture(scope="module")
def asked(edge: Edge) -> Asked:
    line = edge.fresh()
    blocker = {"blocker_id": "b", "cause": "approval_gap"}
    run, *_ = edge.accept(
        fact("run.started", None, {"service_line_id": line, "input": {"said": 1}}),
        fact("execution.checked_in", line, {"hours": 1}),
        fact("execution.blocked", line, blocker),
    )
    tenant = {"organization_id": ORGANIZATION, "workspace_id": WORKSPACE}
    hook = edge.post(
        "/v1/webhooks",
        edge.token("webhooks:manage", **tenant),
        json={"url": "https://93.184.216.34/", "event_types": ["*"]},
    ).json()["data"]["id"]
    ((number,),) = edge.select(
        f"SELECT number FROM ledger.event WHERE position = {run['position']}"
    )
    names = {
        "line_id": line,
        "run_id": run["subject"],
        "endpoint_id": hook,
        "event_id": f"EVT-{number}",
        "type": "execution.paused",
        "position": str(run["position"]),
    }
    return Asked(edge, tenant, names)


@pytest.fixture
def questions(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Question, int | None]]:
    """The questions that are asked of the views."""
    reads, heard = asked.edge.service.app.state.services.reads, []
    ask = reads.ask

    async def listening(question: Question, min_position: int | None = None) -> Answer:
        heard.append((question, min_position))
        answer: Answer = await ask(question, min_position)
        return answer

    monkeypatch.setattr(reads, "ask", listening)
    return heard


def test_every_router_is_served() -> None:
    modules = (
        importlib.import_module(m.name)
        for m in pkgutil.iter_modules(routes.__path__, f"{routes.__name__}.")
    )
    routers = {module.__name__ for module in modules if hasattr(module, "router")}
    assert routers - {module.__name__ for module in ROUTED} == set(), "name it in api/app.py"


def test_every_route_of_the_api_is_called_without_dependencies() -> None:
    for module in ROUTED:
        for route in module.router.routes:
            is_api = getattr(route, "path", "").startswith("/v1")
            assert not is_api or isinstance(route, LeanRoute), "route_class=LeanRoute"


@pytest.mark.parametrize("route", ROUTES, ids=named)
def test_only_its_permission_opens_a_route(asked: Asked, route: LeanRoute) -> None:
    needed = (route.openapi_extra or {})["x-permission"]
    if needed is not None:
        token = asked.token(*(one for one in PERMISSIONS if one != needed))
        answer = asked.edge.request(next(iter(route.methods)), asked.path(route), token)
        assert_problem(answer, 403, "forbidden")


@pytest.mark.parametrize("route", ROUTES, ids=named)
def test_an_unknown_parameter_is_refused(asked: Asked, route: LeanRoute) -> None:
    path = f"{asked.path(route)}?nonsense=1"
    answer = asked.edge.request(next(iter(route.methods)), path, asked.token(*PERMISSIONS))
    assert_problem(answer, 422, "invalid_request")


@pytest.mark.parametrize("route", WRITES, ids=named)
def test_a_write_that_is_refused_before_it_is_called_is_recorded(route: LeanRoute) -> None:
    assert hasattr(route.endpoint, "turns_down"), "command_route or records_refusals"


@pytest.mark.parametrize("route", COMMANDS, ids=named)
def test_a_command_with_a_faulty_body_is_not_carried_out(asked: Asked, route: LeanRoute) -> None:
    edge, method, path = asked.edge, next(iter(route.methods)), asked.path(route)
    before = edge.log()
    assert_problem(edge.request(method, path, asked.token()), 403, "forbidden")
    answer = edge.request(method, path, asked.token(*PERMISSIONS), json={"nonsense": 1})
    assert_problem(answer, 422, "invalid_request")
    assert edge.log() == before
    early, late = edge.select(
        "SELECT action FROM ledger.event WHERE audit = 'refused' ORDER BY position DESC LIMIT 2"
    )
    assert early == late, "command_route names the command that the route carries out"


@pytest.mark.parametrize("past", [False, True], ids=["present", "past"])
@pytest.mark.parametrize("route", READS, ids=named)
def test_a_question_names_the_views_that_its_statement_reads(
    asked: Asked, questions: list[tuple[Question, int | None]], route: LeanRoute, past: bool
) -> None:
    if route.path == ENDLESS or (past and not knows_the_past(route)):
        return
    query = {"as_of": asked.edge.clock().isoformat()} if past else {}
    asked.edge.get(asked.path(route), asked.token(*PERMISSIONS), params=query)
    for question, _ in questions:
        tables = set(re.findall(r"ledger\.(\w+)", question.statement))
        read = {_VIEWS[table] for table in tables if table in _VIEWS}
        positions = [a or b for a, b in _POSITION_OF.findall(question.statement)]
        assert positions, "its first column is position_of(past, …views)"
        standing = set(re.findall(r"\w+", " ".join(positions)))
        assert read - standing == set(), "position_of names each view whose rows are read"
        assert question.views == standing, "the question names the views of position_of"


@pytest.mark.parametrize("route", READS, ids=named)
@pytest.mark.parametrize(
    "tenant",
    [(OTHER_ORGANIZATION, None), (OTHER_ORGANIZATION, WORKSPACE), (ORGANIZATION, OTHER_WORKSPACE)],
    ids=str,
)
def test_nothing_of_another_tenant_is_shown(
    asked: Asked, route: LeanRoute, tenant: tuple[str, str | None]
) -> None:
    if route.path == ENDLESS:
        return
    organization, workspace = tenant
    token = asked.edge.token(*PERMISSIONS, organization_id=organization, workspace_id=workspace)
    answer = asked.edge.get(asked.path(route), token)
    if any(f"{{{name}}}" in route.path for name in OWNED):
        assert_problem(answer, 404, "not_found")
    assert not any(asked.names[name] in answer.text for name in OWNED), "where_tenant is missing"


@pytest.mark.parametrize("route", [r for r in READS if knows_the_past(r)], ids=named)
def test_what_comes_later_changes_nothing_of_the_past(asked: Asked, route: LeanRoute) -> None:
    edge, line, run = asked.edge, asked.names["line_id"], asked.names["run_id"]
    edge.clock.advance(hours=1)
    query, token = {"as_of": edge.clock().isoformat()}, asked.token(*PERMISSIONS)
    edge.clock.advance(hours=1)
    before = edge.get(asked.path(route), token, params=query)
    assert before.status_code == 200, before.text
    for word in ("paused", "resumed"):
        edge.accept(fact(f"service_line.{word}", line, {"reason": "r"}))
    edge.accept(
        fact("service_line.updated", line, {"project_tags": ["later"]}),
        fact("execution.checked_in", line, {"hours": 3}),
        fact("run.requested", None, {"service_line_id": line}),
        fact("health.signal_reported", line, {"signal": "sla_compliance", "status": "red"}),
    )
    if edge.data(f"/v1/runs/{run}", token)["completed_at"] is None:
        edge.accept(fact("run.completed", run, {"tokens_used": 5}))
    edge.fresh()
    after = edge.get(asked.path(route), token, params=query)
    assert after.text == before.text, "of the past no row after p.position counts"


@pytest.mark.parametrize(
    "route", [r for r in READS if knows_the_past(r) and "{" in r.path], ids=named
)
def test_what_begins_later_is_unknown_in_the_past(asked: Asked, route: LeanRoute) -> None:
    edge, token = asked.edge, asked.token(*PERMISSIONS)
    query = {"as_of": edge.clock().isoformat()}
    edge.clock.advance(hours=1)
    line = edge.fresh()
    (run,) = edge.accept(fact("run.started", None, {"service_line_id": line}))
    path = route.path.format(line_id=line, run_id=run["subject"])
    assert edge.get(path, token).status_code == 200
    assert_problem(edge.get(path, token, params=query), 404, "not_found")


@pytest.mark.parametrize("route", READS, ids=named)
def test_a_read_of_views_waits_for_the_position_that_is_asked_for(
    asked: Asked, questions: list[tuple[Question, int | None]], route: LeanRoute
) -> None:
    if route.path == ENDLESS:
        return
    headers = {"ledger-min-position": "1"}
    asked.edge.get(asked.path(route), asked.token(*PERMISSIONS), headers=headers)
    assert {least for _, least in questions} <= {1}, "min_position is handed to reads.ask"
