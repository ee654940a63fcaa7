"""The page of the feed: newest first, filtered, page by page, and as a file."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest

from ledger.engine.page import log
from tests.support.boards import pages_from
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.visitor import Visited, Visitor, visitor

OTHERS = {"organization_id": "ORG-26-000002", "workspace_id": "WS-26-000002"}


def ids(page: Visited) -> list[str]:
    return [str(row["id"]) for row in page.all(".log tbody tr")]


def fed(edge: Edge, query: str, token: str | None = None) -> list[dict[str, Any]]:
    """The events that the API lists, on all pages."""
    events: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = edge.get(f"/v1/events?limit=100{query}{cursor}", token).json()
        events += page["data"]
        if not page["meta"]["has_more"]:
            return events
        cursor = f"&cursor={page['meta']['cursor']}"


def check_ins(line_id: str, count: int, **more: Any) -> Sequence[dict[str, Any]]:
    return [fact("execution.checked_in", line_id, {"hours": 1}, **more) for _ in range(count)]


def test_the_newest_event_comes_first_with_actor_and_details(edge: Edge) -> None:
    line_id = edge.fresh("capacity")
    data = {"blocker_id": "B-1", "cause": "approval_gap", "reason": "Waiting for the sign-off"}
    edge.accept(fact("execution.blocked", line_id, data, actortype="user", actorid="USR-26-000009"))
    page = visitor(edge).get(f"/ui/events?service_line_id={line_id}")
    assert page.words(".log .name") == ["execution.blocked", "execution.started"]
    row = page.words(".log tbody tr")[0]
    assert "running to blocked" in row.replace("→ ", "")
    assert "approval gap Waiting for the sign-off" in row
    assert "USR-26-000009 user, via test KEY-26-" in row
    assert "recorded" not in row
    event = page.all(".log tbody tr")[0]
    assert f"/ui/lines/{line_id}" in [a["href"] for a in event.select("a")]
    assert f"/ui/events/{event['id']}" in [a["href"] for a in event.select("a")]
    assert "(UTC)" in page.words(".log thead th")[1]
    at = edge.clock() - timedelta(minutes=5)
    edge.accept(fact("execution.checked_in", line_id, {"hours": 1}, time=at.isoformat()))
    page = visitor(edge).get(f"/ui/events?service_line_id={line_id}")
    assert "recorded 5 min later" in page.words(".log .when")[0]


def test_pages_lead_to_the_very_first_event_and_miss_none(edge: Edge) -> None:
    line_id = edge.fresh("capacity")
    edge.accept(*check_ins(line_id, 130))
    pages = pages_from(visitor(edge), f"/ui/events?service_line_id={line_id}")
    assert [len(ids(page)) for page in pages] == [50, 50, 31]
    walked = [event_id for page in pages for event_id in ids(page)]
    assert walked == [event["id"] for event in fed(edge, f"&service_line_id={line_id}")][::-1]
    newest = pages[1].one(".pager a:not([rel])")
    assert newest.get_text() == "Newest"
    assert newest["href"] == f"/ui/events?service_line_id={line_id}"
    # Only the first page follows the feed.
    view = pages[0].one("#view")
    assert view["data-stream"] == f"/ui/stream?service_line_id={line_id}"
    assert view["hx-get"] == f"/ui/events?service_line_id={line_id}"
    assert not {"data-stream", "hx-get"} & set(pages[1].one("#view").attrs)


def test_all_pages_say_how_many_events_they_have_of_many_that_there_are_more(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    line_id, guest = edge.fresh("capacity"), visitor(edge)
    edge.accept(*(fact("execution.checked_in", line_id, {"hours": 1}) for _ in range(60)))
    for page in pages_from(guest, f"/ui/events?service_line_id={line_id}&limit=25"):
        assert page.words(".total") == ["61 events"]
    assert guest.get(f"/ui/events?service_line_id={line_id}&type=execution.started").words(
        ".total"
    ) == ["1 event"]
    monkeypatch.setattr(log, "COUNTED", 10)
    assert guest.get(f"/ui/events?service_line_id={line_id}").words(".total") == ["10 events"]


@pytest.mark.parametrize(
    "chosen",
    [
        {"from": "2026-04-15T12:00:00Z", "type": "execution.blocked,execution.unblocked"},
        {"workspace_id": "WS-26-000801", "type": "execution.blocked", "to": "2099-01-01"},
    ],
)
def test_every_filter_means_what_it_means_in_the_api(edge: Edge, chosen: dict[str, str]) -> None:
    line_id = edge.fresh(workspace_id="WS-26-000801")
    data = {"blocker_id": "B-1", "cause": "capacity_issue"}
    edge.accept(fact("execution.blocked", line_id, data))
    query = "".join(f"&{name}={value}" for name, value in chosen.items())
    guest = visitor(edge)
    page = guest.get("/ui/events?" + query[1:])
    pages = pages_from(guest, "/ui/events?" + query[1:])
    expected = [event["id"] for event in fed(edge, query)][::-1]
    assert [event_id for one in pages for event_id in ids(one)] == expected
    # The filters stay in the form, are listed above the table, and apply to stream and file.
    form = page.form("/ui/events")
    assert all(form[name] == chosen[name] for name in chosen if name in form)
    assert len(page.all(".chosen li")) == len(chosen)
    for link in page.all(".chosen a"):
        assert len(guest.get(str(link["href"])).all(".chosen li")) == len(chosen) - 1
    stream, *files = (
        {n: v[0] for n, v in parse_qs(urlsplit(str(address)).query).items()}
        for address in (
            page.one("#view")["data-stream"],
            *(link["href"] for link in page.all("#downloads a")),
        )
    )
    assert stream == {n: v for n, v in chosen.items() if n not in ("from", "to")}
    assert files == [chosen | {"format": "csv"}, chosen | {"format": "jsonl"}]


def test_times_are_typed_in_the_zone_of_the_page_and_addressed_by_instants(edge: Edge) -> None:
    guest = visitor(edge)
    guest.http.cookies.set("ledger_zone", "Europe/Berlin")
    path = "/ui/events?type=execution.started&from_local=2026-04-15T14:00&to_local="
    answer = guest.get(path)
    assert answer.status == 303
    answer = guest.get(answer.location)
    assert answer.location == "/ui/events?type=execution.started&from=2026-04-15T12%3A00%3A00Z"
    page = guest.get(answer.location)
    assert page.form("/ui/events")["from_local"] == "2026-04-15T14:00:00"
    assert "Recorded from 2026-04-15 14:00:00 ✕" in page.words(".chosen li:last-child")[0]
    assert "(Europe/Berlin)" in page.text


def test_an_unchanged_bound_keeps_its_fractions_of_a_second(edge: Edge) -> None:
    """A field shows whole seconds: events within the last second must not disappear."""
    guest = visitor(edge)
    guest.http.cookies.set("ledger_zone", "Europe/Berlin")
    bounds = {"from": "2026-10-25T01:30:00.25Z", "to": "2026-12-01T12:00:00.000001Z"}
    page = guest.get("/ui/events", params=bounds)
    form = page.form("/ui/events")
    assert form["from_local"] == "2026-10-25T02:30:00", "the second half past two of that night"

    def led_to(**fields: str) -> dict[str, str]:
        answer = guest.get("/ui/events", params=form | fields)
        while answer.status == 303:
            last = answer.location
            answer = guest.get(last)
        assert answer.status == 200
        return dict(parse_qsl(urlsplit(last).query))

    assert led_to(type="run.failed") == bounds | {"type": "run.failed"}
    # As browsers send a time: without seconds that are zero.
    assert led_to(to_local="2026-12-01T13:00") == bounds
    assert led_to(to_local="2026-12-01T13:01") == bounds | {"to": "2026-12-01T12:01:00Z"}
    assert led_to(to_local="") == {"from": bounds["from"]}
    assert led_to(from_exact="nonsense")["from"] == "2026-10-25T00:30:00Z"
    # A bound that is a day stays a day.
    form = guest.get("/ui/events?from=2026-04-01").form("/ui/events")
    assert led_to() == {"from": "2026-04-01"}


@pytest.mark.parametrize("typed", ["tomorrow", "0001-01-01T00:00:00+14:00"])
def test_an_invalid_time_is_refused_in_words(edge: Edge, typed: str) -> None:
    page = visitor(edge).get("/ui/events", params={"from_local": typed})
    assert page.status == 422
    assert "From: must be a date and a time" in page.text


def test_an_empty_result_is_announced_and_is_not_shown_as_an_error(edge: Edge) -> None:
    page = visitor(edge).get("/ui/events?service_line_id=LIN-26-999999")
    assert page.status == 200
    assert page.words(".empty h2") == ["No events match these filters"]
    assert page.all(".refused, .refusal, table") == []
    assert page.one("#view")["data-stream"], "the page waits for matching events"
    other = visitor(edge, organization_id="ORG-26-000777").get("/ui/events")
    assert other.words(".empty h2") == ["No events yet"]


def test_an_administrator_chooses_the_organization(edge: Edge) -> None:
    admin = edge.token("admin", organization_id=None)
    theirs, ours = edge.fresh(token=admin, **OTHERS), edge.fresh()
    everyone = Visitor(edge, admin)
    assert "organization_id" not in visitor(edge).get("/ui/events").form("/ui/events")
    page = everyone.get(f"/ui/events?organization_id={OTHERS['organization_id']}")
    assert page.words(".log .about .id") == [theirs]
    assert page.form("/ui/events")["organization_id"] == OTHERS["organization_id"]
    both = everyone.get("/ui/events").words(".log .about .id")
    assert {theirs, ours} <= set(both)


def test_an_event_is_shown_whole_and_leads_to_its_line_at_that_instant(edge: Edge) -> None:
    line_id = edge.fresh()
    data = {"blocker_id": "B-1", "cause": "approval_gap", "reason": "<b>&"}
    (item,) = edge.accept(fact("execution.blocked", line_id, data))
    (event_id,) = item["event_ids"]
    event = edge.data(f"/v1/events/{event_id}")
    page = visitor(edge).get(f"/ui/events/{event_id}")
    payload, envelope = (json.loads(pre.get_text()) for pre in page.all("pre"))
    assert (payload, envelope) == (event["payload"], event)
    assert page.one("h1").get_text() == "execution.blocked"
    assert event["actor"]["id"] in page.text
    assert event["reported_by"] in page.text
    instant = datetime.fromisoformat(event["recorded_at"]).astimezone(UTC)
    assert f"{instant:%Y-%m-%d %H:%M:%S.%f}" in page.text
    (link,) = [a for a in page.all(".actions a") if "at that time" in a.get_text()]
    assert urlsplit(str(link["href"])).path == f"/ui/lines/{line_id}"
    assert parse_qs(urlsplit(str(link["href"])).query) == {"as_of": [event["recorded_at"]]}


def test_the_cause_of_an_event_is_a_link(edge: Edge) -> None:
    line_id = edge.fresh()
    edge.accept(fact("run.started", None, {"service_line_id": line_id}))
    edge.accept(fact("service_line.closed", line_id))
    events = fed(edge, f"&service_line_id={line_id}")
    cancelled = next(event for event in events if event["type"] == "run.cancelled")
    page = visitor(edge).get(f"/ui/events/{cancelled['id']}")
    assert [a["href"] for a in page.all('dd a[href^="/ui/events/"]')] == [
        f"/ui/events/{cancelled['causation_id']}"
    ]
    assert "because the line was closed" in page.text
    assert facts_of(page) == {"Caused by": cancelled["causation_id"], "Fact": "—"}
    page = visitor(edge).get(f"/ui/events?service_line_id={line_id}&type=run.started")
    links = [a["href"] for a in page.one(".log .about").select("a")]
    assert links == [f"/ui/runs/{cancelled['subject']['id']}", f"/ui/lines/{line_id}"]


def facts_of(page: Visited) -> dict[str, str]:
    """The cause and the fact of an event, as its page shows them."""
    about = dict(zip(page.words(".facts dt"), page.words(".facts dd"), strict=True))
    return {name: about[name] for name in ("Caused by", "Voids", "Fact") if name in about}


def test_a_void_leads_to_its_check_in_and_names_its_fact_as_it_was_sent(edge: Edge) -> None:
    line_id = edge.fresh("capacity")
    check_in = fact("execution.checked_in", line_id, {"hours": 1}, source="/<i>a</i>")
    void = fact("execution.check_in_voided", line_id, {"fact_id": check_in["id"]})
    void["source"] = check_in["source"]
    first, second = edge.accept(check_in, void)
    page = visitor(edge).get(f"/ui/events/{second['event_ids'][0]}")
    assert facts_of(page) == {
        "Voids": first["event_ids"][0],
        "Fact": f"{void['id']} from /<i>a</i>",
    }


def test_events_are_found_by_the_time_at_which_they_occurred(edge: Edge) -> None:
    line_id = edge.fresh("capacity")
    of_march = check_ins(line_id, 3, time="2026-03-31T22:30:00Z")
    edge.accept(*of_march, *check_ins(line_id, 2, time="2026-04-02T10:00:00Z"))
    guest = visitor(edge)
    guest.http.cookies.set("ledger_zone", "Europe/Berlin")
    typed = "occurred_from_local=2026-04-01T00:00&occurred_to_local=2026-04-02T00:00"
    found = guest.get(f"/ui/events?service_line_id={line_id}&{typed}")
    parameters = dict(parse_qsl(urlsplit(found.location).query))
    assert (parameters["occurred_from"], parameters["occurred_to"]) == (
        "2026-03-31T22:00:00Z", "2026-04-01T22:00:00Z",
    )  # fmt: skip
    pages = pages_from(guest, f"{found.location}&limit=2")
    walked = [event_id for page in pages for event_id in ids(page)]
    listed = [event["id"] for event in fed(edge, f"&service_line_id={line_id}")]
    assert walked == listed[1:4][::-1]
    assert pages[0].words(".chosen .chip")[1:] == [
        "Occurred from 2026-04-01 00:00:00 ✕ , remove",
        "Occurred before 2026-04-02 00:00:00 ✕ , remove",
    ]
    # Neither a count nor a stream knows when events occurred.
    assert pages[0].all(".total, [data-stream]") == []
    file = guest.get(str(pages[0].all("#downloads a")[1]["href"])).answer.text
    assert [json.loads(row)["id"] for row in file.splitlines()] == listed[1:4]
