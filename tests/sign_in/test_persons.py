"""Names of persons, which the identity provider gives at sign-in: on pages, next to ids."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.databases import execute
from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION, fact
from tests.support.provider import Provider, trusting
from tests.support.visitor import Visitor, visitor

NAME, MAIL = "Ada <b>Lovelace</b>", "ada@example.com"


@pytest.fixture(scope="module")
def edge(server: EmbeddedPostgres, provider: Provider) -> Iterator[Edge]:
    with trusting(server, "edge_persons", provider) as edge:
        yield edge


@pytest.fixture
def person(edge: Edge) -> str:
    """The provider's id of a person who has signed in once, and whose name nobody else has."""
    sub = f"0oa-{edge.fresh()}"
    remember(edge, sub, NAME, MAIL)
    return sub


def remember(edge: Edge, sub: str, name: str | None, mail: str | None) -> None:
    with psycopg.connect(edge.conninfo, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO ledger.person VALUES (%s, %s, %s, now(), %s)",
            (sub, name, mail, [ORGANIZATION]),
        )


def paused(edge: Edge, sub: str) -> tuple[str, str]:
    """A line that a person has paused by a key, and the event of it."""
    line = edge.fresh()
    by = {"actortype": "user", "actorid": sub}
    edge.accept(fact("execution.blocked", line, {"blocker_id": "B", "cause": "approval_gap"}, **by))
    (item,) = edge.accept(fact("service_line.paused", line, {"reason": "Why"}, **by))
    return line, item["event_ids"][0]


def test_pages_show_the_name_of_an_actor_and_the_id_next_to_it(edge: Edge, person: str) -> None:
    line, event = paused(edge, person)
    guest = visitor(edge, "read", "audit:read")
    pages = [
        f"/ui/lines/{line}",
        f"/ui/lines/{line}/history",
        f"/ui/events?service_line_id={line}",
        f"/ui/events/{event}",
        f"/ui/audit?service_line_id={line}",
    ]
    for path in pages:
        page = guest.get(path)
        assert f"{NAME} {person}" in page.text, path
        (*_, named) = [each for each in page.all("bdi") if each.get_text() == NAME]
        titled = named if named.get("title") else named.parent
        assert titled is not None
        assert titled["title"] == MAIL, path
        assert not page.all("bdi b"), "the provider's text is no markup"
    (paused_by,) = guest.get("/ui").all(f"#{line} .whom")
    assert (paused_by.get_text(), paused_by["title"]) == (NAME, MAIL)


def test_a_person_without_name_is_called_by_the_address(edge: Edge) -> None:
    sub = f"0oa-{edge.fresh()}"
    remember(edge, sub, None, "nameless@example.com")
    line, _ = paused(edge, sub)
    assert f"nameless@example.com {sub}" in visitor(edge).get(f"/ui/lines/{line}").text


def test_an_actor_of_another_type_with_the_id_of_a_person_is_none(edge: Edge, person: str) -> None:
    line = edge.fresh()
    by = {"actortype": "agent", "actorid": person}
    edge.accept(fact("service_line.paused", line, {"reason": "Why"}, **by))
    page = visitor(edge, "read", "audit:read").get(f"/ui/lines/{line}")
    assert person in page.text
    assert NAME not in page.text


def test_an_id_that_a_reader_types_is_answered_by_no_name(edge: Edge, person: str) -> None:
    guest = visitor(edge, "read", "audit:read")
    for path in (
        f"/ui/audit?actor_id={person}",
        f"/ui/audit?actor_id=user:{person}",
        f"/ui/search?q={person}",
        f"/ui/alerts?assignee={person}",
    ):
        page = guest.get(path)
        assert page.status in (200, 303), path
        assert NAME not in page.text, path
        assert MAIL not in page.answer.text, path


def test_a_reader_who_does_not_see_the_entries_of_a_person_sees_no_name(
    edge: Edge, person: str
) -> None:
    paused(edge, person)
    other = visitor(edge, organization_id="ORG-26-000777")
    for path in ("/ui", "/ui/events", "/ui/sources"):
        assert NAME not in other.get(path).text, path


def test_the_frame_says_who_is_signed_in_by_name(
    edge: Edge, provider: Provider, person: str
) -> None:
    line, _ = paused(edge, person)
    guest = Visitor(edge, provider.token("ed-1", sub=person))
    assert guest.get("/ui").words("footer")[0].startswith(f"Signed in as {NAME} user:{person} ·")
    assert (
        guest.get("/ui/sessions")
        .words("main > p")[0]
        .startswith(f"Where you are signed in as {NAME}")
    )
    missing = guest.get("/ui/lines/LIN-26-999999")
    assert (missing.status, NAME in missing.text) == (404, True)
    execute(edge.conninfo, f"DELETE FROM ledger.person WHERE sub = '{person}'")
    assert guest.get("/ui").words("footer")[0].startswith(f"Signed in with user:{person} ·")
    assert person in guest.get(f"/ui/lines/{line}").text


def test_a_page_asks_for_the_names_of_all_persons_at_once(
    edge: Edge, provider: Provider, person: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, _ = paused(edge, person)
    guest = Visitor(edge, provider.token("ed-1", sub=person))
    statements = list[str]()
    pool = edge.service.app.state.services.pool
    fetch: Callable[..., Any] = pool.fetch

    async def noting(tenant: Any, statement: str, *more: Any) -> Any:
        statements.append(statement)
        return await fetch(tenant, statement, *more)

    monkeypatch.setattr(pool, "fetch", noting)
    assert guest.get(f"/ui/lines/{line}").status == 200
    assert len([each for each in statements if "ledger.person" in each]) == 1


def test_the_name_is_on_pages_alone(edge: Edge, person: str) -> None:
    line, event = paused(edge, person)
    token = edge.token("read", "audit:read")
    for path in (
        f"/v1/execution/{line}",
        f"/v1/execution/{line}/history",
        f"/v1/events/{event}",
        f"/v1/events?service_line_id={line}",
        f"/v1/audit-logs?organization_id={ORGANIZATION}&service_line_id={line}",
        f"/v1/audit-logs/export?organization_id={ORGANIZATION}&service_line_id={line}&format=csv",
    ):
        answer = edge.get(path, token)
        assert answer.status_code == 200, path
        assert person in answer.text, path
        assert "Ada" not in answer.text, path
        assert MAIL not in answer.text, path
