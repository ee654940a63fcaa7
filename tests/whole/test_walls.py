"""Each isolation of tenants alone: policies, or the statements' own filters, hide neighbours.

Together they hide each other's gaps. A statement that lacks ``where_tenant`` returns nothing
foreign as long as policies bind its reader.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import psycopg
import pytest

from ledger.app.composition.api import create_api
from ledger.app.features import projections
from ledger.app.settings import Settings
from ledger.engine.http import reading
from ledger.engine.http.lean import LeanRoute
from ledger.engine.postgres.exchange import Rows
from ledger.engine.postgres.pool.read_pool import ReadPool
from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.values.principal import ANY, EVERYONE, Principal, Tenant
from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION, WORKSPACE, fact
from tests.support.reader import become_reader, set_tenant
from tests.support.views import query
from tests.support.visitor import Visitor
from tests.support.watches import watched
from tests.support.webhook_api import OTHER_ORGANIZATION, OTHER_WORKSPACE
from tests.whole.test_every_route import ENDLESS, READS, is_of_administrators, label, takes_as_of

SETTINGS = Settings(master_key="0f" * 32, idle_sweep_seconds=3600)

PERMISSIONS = (
    "read", "audit:read", "webhooks:manage", "keys:manage", "write", "statements:issue",
    "watches:manage",
)  # fmt: skip

PARAMETERS: dict[str, dict[str, str]] = {
    "/v1/directory": {"type": "resource"},
    "/v1/search": {"q": "zebra"},
    "/v1/compare": {"then": "2026-04-01"},
    "/v1/compare/export": {"then": "2026-04-01"},
}
"""The parameters of reads that need some, besides the audit log's organization."""


OF_WHOLE = ("/v1/execution/summary", "/v1/directory")
"""Reads whose unfiltered statement has rows of whole organizations, which no workspace sees."""


class Neighbour(NamedTuple):
    """A tenant whose words all begin with its mark."""

    mark: str
    organization: str
    workspace: str
    names: dict[str, str]
    """The values of the parameters in paths."""


class Street(NamedTuple):
    """Several tenants in a service."""

    edge: Edge
    foreign: Neighbour
    adjacent: Neighbour
    """Another workspace of the own organization."""
    own: Neighbour


@pytest.fixture(scope="module")
def street(edge: Edge) -> Street:
    foreign = settle(edge, "foreign", ORGANIZATION, WORKSPACE)
    adjacent = settle(edge, "adjacent", OTHER_ORGANIZATION, "WS-26-000023")
    own = settle(edge, "homely", OTHER_ORGANIZATION, OTHER_WORKSPACE)
    edge.clock.advance(seconds=1)
    return Street(edge, foreign, adjacent, own)


def settle(edge: Edge, mark: str, organization: str, workspace: str) -> Neighbour:
    """Fill every view and table with a tenant's rows."""
    tenant = {"organization_id": organization, "workspace_id": workspace}
    token = edge.token(*PERMISSIONS, name=f"{mark} key", **tenant)
    Visitor(edge, token)
    line = edge.fresh(
        name=f"{mark} zebra",
        token=token,
        project_tags=[f"{mark}-tag"],
        resources=[{"id": f"{mark}-ada", "type": "person", "name": f"{mark} ada"}],
        **tenant,
    )
    own = {"token": token}
    run, *_ = edge.accept(
        fact(
            "run.started",
            None,
            {"service_line_id": line, "input": {"said": mark}, "external_id": "zebra"},
            source=f"/{mark}",
        ),
        fact("execution.checked_in", line, {"hours": 1, "note": f"{mark} note"}),
        fact("execution.blocked", line, {
            "blocker_id": f"{mark}-b", "cause": "approval_gap", "reason": f"{mark} zebra reason",
        }),
        fact("directory.named", workspace, {"name": f"{mark} place"}),
        fact("health.signal_reported", line, {"signal": "sla_compliance", "status": "red"}),
        **own,
    )  # fmt: skip
    edge.accept(fact("run.completed", run["subject"], {"output": {"said": mark}}), **own)
    hook = edge.post(
        "/v1/webhooks",
        token,
        json={"url": "https://93.184.216.34/" + mark, "event_types": ["*"], "description": mark},
    ).json()["data"]["id"]
    key = edge.post(
        "/v1/keys", token, json={"name": f"{mark} reader", "permissions": ["read"]}
    ).json()["data"]["id"]
    period = {"from": "2026-04-01", "to": "2026-04-15", "note": f"{mark} note"}
    statement = edge.post("/v1/statements", token, json=period).json()["data"]["id"]
    hours = {"hours": 1, "resource_id": f"{mark}-ada"}
    edge.accept(fact("execution.checked_in", line, hours), **own)
    edge.post(f"/v1/execution/{edge.fresh_id()}/pause", token, json={"reason": mark})
    watch, alert = watched(edge, token, line, name=f"{mark} watch")
    event = edge.data("/v1/events", token)[0]
    names = {
        "line_id": line,
        "run_id": run["subject"],
        "endpoint_id": hook,
        "key_id": key,
        "statement_id": statement,
        "watch_id": watch,
        "alert_id": alert,
        "event_id": event["id"],
        "position": str(event["position"]),
    }
    return Neighbour(mark, organization, workspace, names)


@pytest.fixture(scope="module", params=[False, True], ids=["an organization", "a workspace"])
def is_narrow(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def token(street: Street, is_narrow: bool) -> str:
    """A token of the own tenant."""
    tenant = {"organization_id": street.own.organization, "workspace_id": None}
    if is_narrow:
        tenant["workspace_id"] = street.own.workspace
    return street.edge.token(*PERMISSIONS, **tenant)


@pytest.fixture(scope="module")
def strangers(street: Street, is_narrow: bool) -> list[Neighbour]:
    """The tenants of which the token must see nothing."""
    return [street.foreign, street.adjacent] if is_narrow else [street.foreign]


class UnboundPool(ReadPool):
    """A read pool whose statements no policy binds: each reads as the service's own do."""

    async def fetch(
        self,
        tenant: Tenant,
        statement: str,
        parameters: Mapping[str, Any],
        planning: Planning = Planning.SHORT,
    ) -> Rows:
        return await super().fetch(EVERYONE, statement, parameters, planning)


def no_filters(principal: Principal) -> dict[str, Any]:
    """The filters of an administrator."""
    return {}


@pytest.fixture(scope="module", params=["policies", "filters"])
def layer(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def behind(street: Street, layer: str) -> Iterator[Edge]:
    """A worker with this layer alone."""
    with pytest.MonkeyPatch.context() as patch:
        if layer == "filters":
            patch.setattr("ledger.app.composition.api.ReadPool", UnboundPool)
        else:
            whole = reading.tenant_filters
            for module in [*sys.modules.values()]:
                if getattr(module, "tenant_filters", None) is whole:
                    patch.setattr(module, "tenant_filters", no_filters)
        app = create_api(SETTINGS, street.edge.conninfo, street.edge.clock)
        with street.edge.second_worker(app) as worker:
            yield worker


ROUTES = [
    r
    for r in READS
    if r.path != ENDLESS
    and not r.path.startswith("/v1/event-types")
    and not is_of_administrators(r)
]
TIMES = [(r, past) for r in ROUTES for past in (False, True) if takes_as_of(r) or not past]
OWNED = [(r, past) for r, past in TIMES if "{" in r.path]
LISTS = [(r, past) for r, past in TIMES if "{" not in r.path and "/log/" not in r.path]
BY_FUNCTION = "/v1/log/entries/{position}"
"""The read that only a function of the database isolates (``engine/log/test_stored_events.py``)."""

LACKS = {"filters": "the statement lacks where_tenant", "policies": "a table lacks its policy"}
"""By the isolation that was tried, what is missing if it hides nothing."""


def named(value: Any) -> str:
    if isinstance(value, bool):
        return "past" if value else "present"
    return label(value)


def parameters_of(route: LeanRoute, whose: Neighbour) -> dict[str, str]:
    more = {"organization_id": whose.organization} if "audit-logs" in route.path else {}
    return PARAMETERS.get(route.path, {}) | more


@pytest.mark.parametrize(("route", "past"), OWNED, ids=named)
def test_a_route_finds_nothing_of_a_neighbours_behind_one_layer(
    street: Street,
    behind: Edge,
    layer: str,
    token: str,
    strangers: list[Neighbour],
    route: LeanRoute,
    past: bool,
) -> None:
    if layer == "filters" and route.path == BY_FUNCTION:
        return
    params = {"as_of": street.edge.clock.now.isoformat()} if past else {}
    for whose, status in (*((one, 404) for one in strangers), (street.own, 200)):
        path = route.path.format(**whose.names)
        answer = behind.get(path, token, params=params)
        # An event that is not sealed yet is 503.
        if route.path.startswith("/v1/log/") or route.path.endswith("/bundle"):
            assert (answer.status_code == 404) == (status == 404)
        else:
            assert answer.status_code == status, f"{LACKS[layer]}: {answer.text}"
        assert not any(one.mark in answer.text for one in strangers), LACKS[layer]


@pytest.mark.parametrize(("route", "past"), LISTS, ids=named)
def test_a_list_has_nothing_of_a_neighbours_behind_one_layer(
    street: Street,
    behind: Edge,
    layer: str,
    token: str,
    is_narrow: bool,
    strangers: list[Neighbour],
    route: LeanRoute,
    past: bool,
) -> None:
    params = parameters_of(route, street.own)
    params |= {"as_of": street.edge.clock.now.isoformat()} if past else {}
    answer = behind.get(route.path, token, params=params)
    assert answer.status_code == 200, answer.text
    if not (is_narrow and layer == "policies" and route.path in OF_WHOLE):
        total = f'"total":{1 if is_narrow else 2}'
        texts = (*street.own.names.values(), street.own.mark, street.own.organization, total)
        assert any(word in answer.text for word in texts), "it lacks the own rows, or counts others"
    for stranger in strangers:
        ids = {stranger.names[name] for name in ("line_id", "run_id", "endpoint_id", "event_id")}
        ids |= {stranger.organization, stranger.workspace} - {street.own.organization}
        assert not any(f'"{each}"' in answer.text for each in ids), LACKS[layer]
        assert stranger.mark not in answer.text, LACKS[layer]


@pytest.mark.parametrize("words", ["service_line,project", "resource", "project,resource", "day"])
def test_usage_has_nothing_of_a_neighbours_behind_one_layer(
    street: Street,
    behind: Edge,
    token: str,
    is_narrow: bool,
    strangers: list[Neighbour],
    words: str,
) -> None:
    params = {"group_by": words, "from": "2026-01-01", "to": "2027-01-01"}
    data = behind.data("/v1/usage", token, params=params)
    total = data["total"]
    assert (total["lines"], total["check_ins"]) == ((1, 2) if is_narrow else (2, 4))
    assert total["runs"]["completed"] == total["lines"]
    assert words == "day" or f'"{street.own.mark}-' in json.dumps(data)
    assert not any(one.mark in json.dumps(data) for one in strangers)
    for one in strangers:
        query = params | {"service_line_id": one.names["line_id"]}
        assert behind.data("/v1/usage", token, params=query)["rows"] == []


def test_a_preview_has_nothing_of_a_neighbours_behind_one_layer(
    street: Street, behind: Edge, token: str, is_narrow: bool, strangers: list[Neighbour]
) -> None:
    body = {"condition": {"kind": "blocker_open"}, "for_seconds": 0}
    answer = behind.post("/v1/watches/preview", token, json=body)
    assert answer.json()["meta"]["count"] == (1 if is_narrow else 2)
    assert street.own.mark in answer.text
    assert not any(one.mark in answer.text for one in strangers)


def test_a_search_by_number_finds_nothing_of_a_neighbours_behind_one_layer(
    street: Street, behind: Edge, layer: str, token: str, strangers: list[Neighbour]
) -> None:
    for whose in (street.own, *strangers):
        for identifier in (whose.names["line_id"], whose.names["run_id"]):
            number = int(identifier.rsplit("-", 1)[1])
            answer = behind.get("/v1/search", token, params={"q": str(number)})
            assert (f'"{identifier}"' in answer.text) == (whose is street.own), LACKS[layer]


def test_a_credential_gets_no_line_of_a_neighbours_behind_one_layer(
    street: Street, behind: Edge, layer: str, token: str, strangers: list[Neighbour]
) -> None:
    for whose in (street.own, *strangers):
        query = {"service_line_id": whose.names["line_id"]}
        answer = behind.get("/v1/credential", token, params=query)
        assert answer.status_code == (200 if whose is street.own else 404), LACKS[layer]


@pytest.fixture(scope="module")
def session(street: Street) -> Iterator[psycopg.Connection[Any]]:
    """A session of the role of reads."""
    with psycopg.connect(street.edge.conninfo, autocommit=True) as connection:
        become_reader(connection, street.edge.conninfo)
        yield connection


VIEWED = [
    (table, view)
    for view in projections()
    for table in view.tables
    if table.tenant and not table.is_internal
]


@pytest.mark.parametrize(("table", "view"), VIEWED, ids=lambda each: getattr(each, "name", ""))
def test_a_view_shows_a_session_the_rows_of_its_tenant(
    street: Street, session: psycopg.Connection[Any], table: Any, view: Any
) -> None:
    has_workspaces = len(table.tenant) > 1
    read = f"SELECT {', '.join(table.tenant)} FROM ledger.{table.name}"
    every = {tuple(row) for row in query(street.edge.conninfo, read)}
    assert {row[0] for row in every} >= {street.own.organization, street.foreign.organization}
    for own, other in ((street.own, street.foreign), (street.foreign, street.own)):
        visible_to = {
            Tenant(own.organization, ANY): {r for r in every if r[0] == own.organization},
            Tenant(own.organization, own.workspace): {
                row
                for row in every
                if row[0] == own.organization and (not has_workspaces or row[1] == own.workspace)
            },
            Tenant(own.organization, ""): set() if has_workspaces else None,
            Tenant(own.organization, other.workspace): set() if has_workspaces else None,
            Tenant(ANY, own.workspace): set(),
            Tenant(ANY, ""): set(),
            Tenant("", ANY): set(),
            Tenant("", ""): set(),
            Tenant(ANY, ANY): every,
        }
        for tenant, rows in visible_to.items():
            set_tenant(session, tenant)
            found = {tuple(row) for row in session.execute(read.encode()).fetchall()}
            assert rows is None or found == rows, tenant
