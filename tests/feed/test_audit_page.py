"""The page of the audit log: newest first, refusals marked, and as a file."""

from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest

from ledger.features.feed.audited import ACTIONS, actions_of
from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION, fact
from tests.support.visitor import Visited, Visitor, visitor

OTHERS = {"organization_id": "ORG-26-000002", "workspace_id": "WS-26-000002"}


def ids(page: Visited) -> list[str]:
    return [str(row["id"]) for row in page.all(".audit tbody tr")]


def paged(guest: Visitor, path: str) -> list[str]:
    """The entries from this page on, newest first."""
    pages = [guest.get(path)]
    while following := pages[-1].all('a[rel="next"]'):
        pages.append(guest.get(str(following[0]["href"])))
        assert len(pages) < 100
    return [entry_id for page in pages for entry_id in ids(page)]


def listed(edge: Edge, token: str, query: str = "") -> list[dict[str, Any]]:
    """The entries that the API lists, on all pages."""
    entries: list[dict[str, Any]] = []
    cursor = ""
    while True:
        path = f"/v1/audit-logs?organization_id={ORGANIZATION}&limit=100{query}{cursor}"
        page = edge.get(path, token, headers=edge.at_end).json()
        entries += page["data"]
        if not page["meta"]["has_more"]:
            return entries
        cursor = f"&cursor={page['meta']['cursor']}"


@pytest.fixture(scope="module")
def lively(edge: Edge) -> str:
    """A key that may read the audit log, with facts, commands and refusals of both in the log."""
    line_id = edge.fresh("capacity")
    edge.accept(*(fact("execution.checked_in", line_id, {"hours": 1}) for _ in range(60)))
    edge.post(f"/v1/execution/{line_id}/pause", json={"reason": "Office move"})
    edge.post(f"/v1/execution/{line_id}/pause", json={"reason": "Again", "for": 1})
    edge.post("/v1/execution/LIN-26-999999/pause", json={"reason": "Nobody's"})
    return edge.token("audit:read")


def test_entries_come_newest_first_and_refusals_say_so(edge: Edge, lively: str) -> None:
    page = Visitor(edge, lively).get("/ui/audit?action=execution.pause")
    assert page.words(".audit .outcome") == [
        "refused not_found", "refused invalid_request /for", "succeeded",
    ]  # fmt: skip
    assert page.words(".audit .name") == ["Paused"] * 3
    assert page.words(".total") == ["3 entries"]
    assert page.words(".audit .word") == ["execution.pause"] * 3
    refused = page.all(".audit tbody tr")[0]
    assert refused.select_one(".outcome svg") is not None
    assert "LIN-26-999999 service line" in page.words(".audit .about")[0]
    (key_id,) = {e["reported_by"] for e in listed(edge, lively, "&action=execution.pause")}
    assert page.words(".audit .by") == [f"test {key_id} API key"] * 3
    (entry,) = [e for e in listed(edge, lively) if e["id"] == refused["id"]]
    assert entry["request_id"] in page.words(".audit .request")[0]


def test_entries_name_their_facts_refused_or_not(edge: Edge) -> None:
    token = edge.token("read", "write", "audit:read")
    line_id = edge.fresh("capacity", token=token)
    released = fact("resource.released", line_id, {"id": "r"}, source="/<b>")
    edge.accept(fact("resource.allocated", line_id, {"id": "r", "type": "pod"}), token=token)
    for event in (released, released | {"id": "late"}):
        edge.send(event, token)
    page = Visitor(edge, token).get("/ui/audit?action=resource.released")
    assert page.words(".audit .about .fact") == [
        "fact late from /<b>",
        f"fact {released['id']} from /<b>",
    ]


@pytest.mark.parametrize(
    "query",
    [
        "", "outcome=refused", "outcome=succeeded&action=execution.checked_in",
        "action=execution.paused", "actor_type=api_key", "actor_id=cli",
        "workspace_id=WS-26-000001", "from=2026-04-15T12:00:00Z&outcome=refused", "to=2026-04-01",
    ],
)  # fmt: skip
def test_every_filter_means_what_it_means_in_the_api(edge: Edge, lively: str, query: str) -> None:
    guest = Visitor(edge, lively)
    expected = [entry["id"] for entry in listed(edge, lively, f"&{query}" if query else "")]
    assert paged(guest, f"/ui/audit?{query}" if query else "/ui/audit") == expected[::-1]
    chosen = {name: value[0] for name, value in parse_qs(query).items()}
    page = guest.get("/ui/audit", params=chosen)
    form = page.form("/ui/audit")
    assert all(form[name] == chosen[name] for name in chosen if name in form)
    assert len(page.all(".chosen li")) == len(chosen)
    if not expected:
        assert page.words(".empty h2") == ["No entries match these filters"]
        assert page.all("table") == []


def test_chips_name_actions_and_bounds_and_a_list_without_entries_says_so(
    edge: Edge, lively: str
) -> None:
    guest = Visitor(edge, lively)
    page = guest.get("/ui/audit?action=execution.paused")
    assert page.words(".audit .word") == ["execution.pause"] * 3
    assert page.words(".chosen .chip") == ["Action Paused ✕ , remove"]
    bounds = {"from": "2026-04-15T12:00:00.5Z", "to": "2026-05-01"}
    page = guest.get("/ui/audit", params=bounds)
    # A late entry occurred before the bound, and was recorded after it.
    assert page.words(".chosen .chip") == [
        "Recorded from 2026-04-15 12:00:00 ✕ , remove",
        "Recorded before 2026-05-01 00:00:00 ✕ , remove",
    ]
    answer = guest.get("/ui/audit", params=page.form("/ui/audit") | {"outcome": "refused"})
    answer = guest.get(answer.location)
    parameters = dict(parse_qsl(urlsplit(answer.location).query))
    assert parameters == bounds | {"outcome": "refused"}, "with the fraction of the second"
    page = guest.get("/ui/audit?service_line_id=LIN-26-999995")
    assert "Nothing was written, refused or read for LIN-26-999995." in page.text
    other = guest.get(f"/ui/audit?organization_id={OTHERS['organization_id']}")
    assert (other.status, ids(other)) == (200, [])
    page = guest.get("/ui/audit?action=execution.stopped")
    assert page.status == 422
    assert "Action: there is no such action; choose one from the list." in page.text
    assert "No entries match" not in page.text


def test_only_the_first_page_refreshes_itself(edge: Edge, lively: str) -> None:
    guest = visitor(edge, "read", "audit:read")
    first = guest.get("/ui/audit")
    view = first.one("#view")
    assert view["hx-trigger"] == "news, every 5s", "what was refused publishes nothing"
    assert view["data-stream"] == f"/ui/stream?organization_id={ORGANIZATION}"
    second = guest.get(str(first.one('a[rel="next"]')["href"]))
    assert not {"data-stream", "hx-get"} & set(second.one("#view").attrs)
    # A credential that may not read events gets no stream: the stream would be refused.
    view = Visitor(edge, lively).get("/ui/audit").one("#view")
    assert "data-stream" not in view.attrs
    assert view["hx-get"] == "/ui/audit"


def test_an_administrator_sees_what_belongs_to_no_organization_and_may_choose_one(
    edge: Edge, lively: str
) -> None:
    token = edge.token("admin", organization_id=None, name="chief")
    admin = Visitor(edge, token)
    edge.fresh(token=token, **OTHERS)
    page = admin.get("/ui/audit")
    assert page.status == 200
    assert page.words(".whose h2") == ["Entries that belong to no organization"]
    assert page.words(".audit .name")[:2] == ["Signed in", "Key created"]
    links = [str(link["href"]) for link in page.all(".audit .by a")]
    assert {admin.get(link).status for link in links} == {200}
    link = str(page.all("#downloads a")[1]["href"])
    exported = admin.get(link).answer.text
    assert exported.count('"id":"AUD-') == len(ids(page))
    assert '"action":"session.begin"' in exported
    assert page.all('.whose input[name="organization_id"]')
    assert "data-stream" not in page.one("#view").attrs
    assert admin.get("/ui/audit?outcome=refused").words(".empty p") == [
        "The entries that belong to no organization have none with this combination.",
        "Show all entries",
    ]
    page = admin.get(f"/ui/audit?organization_id={OTHERS['organization_id']}&outcome=succeeded")
    assert page.words(".audit .name") == ["Activated"]
    assert admin.get(f"/ui/audit?organization_id={ORGANIZATION}").all(".audit tbody tr")


@pytest.mark.parametrize("number", [0, 1])
def test_the_files_are_those_of_the_api(edge: Edge, lively: str, number: int) -> None:
    guest = Visitor(edge, lively)
    link = guest.get("/ui/audit?outcome=refused").all("#downloads a")[number]
    address = urlsplit(str(link["href"]))
    assert address.path == "/ui/audit/export"
    assert link.has_attr("download")
    answer = guest.get(str(link["href"])).answer
    expected = edge.get(f"/v1/audit-logs/export?{address.query}", lively)
    assert (answer.status_code, answer.content) == (200, expected.content)
    assert answer.content.count(b"\n") >= 2
    for name in ("content-type", "content-disposition"):
        assert answer.headers[name] == expected.headers[name]
    assert answer.headers["cache-control"] == "no-store", "as every page"


# The picker of actions.


def test_the_picker_finds_every_action_by_what_people_call_it(edge: Edge, lively: str) -> None:
    page = Visitor(edge, lively).get("/ui/audit")
    picked = [str(option["value"]) for option in page.all("select[name=action] option[value]")]
    found = frozenset[str]().union(*map(actions_of, filter(None, picked)))
    assert ACTIONS - found == set(), "add a choice that finds it to features/feed/page/actions.py"
    assert len(set(picked)) == len(picked)
    groups = {str(group["label"]) for group in page.all("select[name=action] optgroup")}
    assert {"Lines", "Check-ins", "Runs", "Webhooks"} <= groups
    words = page.words("select[name=action] option")
    assert {"Paused", "Resumed", "Check-in voided", "Run erased"} <= set(words)


def test_an_action_of_an_address_that_the_picker_lacks_stays_chosen(
    edge: Edge, lively: str
) -> None:
    page = Visitor(edge, lively).get("/ui/audit?action=execution.pause,key.create")
    (chosen,) = page.all("select[name=action] option[selected]")
    assert chosen["value"] == "execution.pause,key.create"
    assert chosen.get_text() == "Paused or Key created (execution.pause,key.create)"


# A line's entries, with reasons, names and events.


def test_all_that_was_done_to_a_line_is_two_links_from_its_page(edge: Edge) -> None:
    token = edge.token("read", "write", "service_lines:manage", "audit:read", name="Robot")
    line_id = edge.fresh(token=token, name="Zahlungen")
    edge.post(f"/v1/execution/{line_id}/pause", token, json={"reason": "Invoice 4711"})
    person = {"actortype": "user", "actorid": "USR-7"}
    edge.accept(fact("execution.checked_in", line_id, {"hours": 1}, **person), token=token)
    guest = Visitor(edge, token)
    path = f"/ui/audit?service_line_id={line_id}"
    assert guest.get(f"/ui/lines/{line_id}").one(f'a[href="{path}"]').get_text()
    page = guest.get(path)
    assert page.words("h1") == ["Audit of Zahlungen"]
    assert page.words(".audit .name") == ["Checked in", "Paused", "Activated"]
    assert page.words(".audit .why") == ["Reason: Invoice 4711"]
    by_person = f"/ui/audit?actor_id=USR-7&service_line_id={line_id}"
    assert page.one(f'a[href="{by_person}"]').get_text() == "USR-7"
    assert guest.get(by_person).words(".audit .name") == ["Checked in"]


def test_an_entry_links_to_its_event_if_the_feed_has_it(edge: Edge) -> None:
    token = edge.token("read", "write", "service_lines:manage", "audit:read")
    line_id = edge.fresh(token=token)
    for _ in range(2):
        edge.post(f"/v1/execution/{line_id}/pause", token, json={"reason": "because"})
    report = {"signal": "sla_compliance", "status": "red"}
    for _ in range(2):
        edge.accept(fact("health.signal_reported", line_id, report), token=token)
    guest = Visitor(edge, token)
    page = guest.get(f"/ui/audit?service_line_id={line_id}")
    events = {str(link["href"]) for link in page.all('.audit a[href^="/ui/events/"]')}
    assert [guest.get(event).status for event in sorted(events)] == [200, 200]
    assert guest.get(max(events)).words("h1") == ["execution.paused"]
    auditor = visitor(edge, "audit:read").get(f"/ui/audit?service_line_id={line_id}")
    assert auditor.all('.audit a[href^="/ui/events/"]') == []
    assert auditor.words("h1") == ["Audit of a line"]
