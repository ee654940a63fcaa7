"""Links from an actor to the actor's writes in the audit log, for its readers."""

import pytest

from ledger.engine.page.showing import actor
from ledger.engine.values.principal import COMMAND_LINE, SWEEPER
from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION, fact
from tests.support.visitor import Visited, Visitor, visitor

USER = "USR-26-000009"
PATHS = {
    "line": "/ui/lines/{line}",
    "run": "/ui/runs/{run}",
    "events": "/ui/events?service_line_id={line}",
    "event": "/ui/events/{event}",
    "audit": "/ui/audit?organization_id={organization}&action=run.started",
}


@pytest.fixture(scope="module")
def actors(edge: Edge) -> dict[str, str]:
    """A line on which a person started a run and which the person then paused, via a key."""
    line_id = edge.fresh()
    run_id = line_id.replace("LIN", "RUN")
    by = {"actortype": "user", "actorid": USER}
    data = {"service_line_id": line_id}
    (item,) = edge.accept(fact("run.started", run_id, data, **by))
    edge.accept(fact("service_line.paused", line_id, {"reason": "Office move"}, **by))
    event = edge.data(f"/v1/events/{item['event_ids'][0]}")
    return {
        "line": line_id,
        "run": run_id,
        "event": event["id"],
        "organization": event["organization_id"],
        "key": event["reported_by"],
    }


def followed(page: Visited) -> set[str]:
    """The addresses that the actors on a page link to."""
    return {str(a["href"]) for a in page.all('main a[href^="/ui/audit?actor_id="]')}


def test_actors_lead_auditors_to_their_writes_and_administrators_into_their_organizations_log(
    edge: Edge, actors: dict[str, str]
) -> None:
    auditor, reader = visitor(edge, "read", "audit:read"), visitor(edge)
    admin = Visitor(edge, edge.token("admin", organization_id=None))
    addresses = {f"/ui/audit?actor_id={each}" for each in (USER, actors["key"])}
    for name, path in PATHS.items():
        address = path.format_map(actors)
        assert followed(auditor.get(address)) == addresses, name
        led = followed(admin.get(address))
        assert f"/ui/audit?actor_id={USER}&organization_id={ORGANIZATION}" in led, name
        assert all(each.endswith(f"&organization_id={ORGANIZATION}") for each in led), name
        if name != "audit":
            page = reader.get(address)
            assert USER in page.text, name
            assert page.all('a[href^="/ui/audit"]') == [], name
    hold = auditor.get(f"/ui/lines/{actors['line']}").one(".why a")
    assert hold["href"] == f"/ui/audit?actor_id={USER}"
    found = auditor.get(str(hold["href"]))
    assert actors["line"] in found.words(".audit .about .id")
    assert all(words.startswith(USER) for words in found.words(".audit .by"))


def test_a_search_for_an_actor_leads_to_the_audit_log(edge: Edge, actors: dict[str, str]) -> None:
    auditor = visitor(edge, "audit:read")
    for typed in (actors["key"], USER.lower()):
        answer = auditor.get("/ui/search", params={"q": typed})
        assert answer.location == f"/ui/audit?actor_id={typed.upper()}"
    for typed in ("LIN-26-1", "AUD-26-000001", "ORG-26-000001", "somebody", "USR-26-x"):
        assert auditor.get("/ui/search", params={"q": typed}).status == 403
    answer = visitor(edge).get("/ui/search", params={"q": USER})
    assert answer.status == 200
    assert f"Nothing found for “ {USER} ”." in answer.words(".empty p")


def test_a_blocker_whose_id_looks_like_an_actors_is_found_as_a_blocker(edge: Edge) -> None:
    line = edge.fresh()
    blocker = {"blocker_id": "TKT-26-880077", "cause": "approval_gap"}
    edge.accept(fact("execution.blocked", line, blocker))
    found = visitor(edge, "read", "audit:read").get("/ui/search?q=tkt-26-880077")
    assert found.words(".found li") == [f"TKT-26-880077 blocker of {line}"]


def test_the_user_of_the_command_line_is_named(edge: Edge, actors: dict[str, str]) -> None:
    found = visitor(edge, "audit:read").get(f"/ui/audit?actor_id={COMMAND_LINE.id}")
    user = COMMAND_LINE.id.partition(":")[2]
    assert found.words(".audit .by")[0] == f"{user} at the command line system"
    assert found.all(".audit .by a")[0]["title"] == COMMAND_LINE.id


def test_the_ledger_itself_is_named() -> None:
    assert actor(SWEEPER.id) == "the ledger, after no activity"
    assert actor(SWEEPER.id, "user") == SWEEPER.id


def test_an_administrator_is_asked_for_the_organization_and_the_actor_is_kept(edge: Edge) -> None:
    admin = Visitor(edge, edge.token("admin", organization_id=None))
    page = admin.get(admin.get("/ui/search", params={"q": USER}).location)
    hidden = page.one('.whose input[name="actor_id"]')
    assert (hidden["type"], hidden["value"]) == ("hidden", USER)
