"""The page of a line: the reasons of its state, its history, and the operator's hold."""

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from ledger.features.feed.routes import stories
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.random_life import history_of
from tests.support.visitor import Visited, Visitor, visitor

MANAGE = ("read", "service_lines:manage")


def path_of(line_id: str) -> str:
    return f"/ui/lines/{line_id}"


def send(guest: Visitor, line_id: str, action: str, **fields: str) -> Visited:
    """Fill in a form of the line's page and send it."""
    path = path_of(line_id)
    return guest.submit(guest.get(path), f"{path}/{action}", **fields)


def blocked(line_id: str, cause: str = "approval_gap", **more: Any) -> dict[str, Any]:
    return fact("execution.blocked", line_id, {"blocker_id": "B-1", "cause": cause, **more})


def test_a_paused_line_shows_its_holds_and_its_open_blockers(edge: Edge) -> None:
    line_id = edge.fresh()
    edge.accept(
        blocked(line_id, reason="Waiting for the sign-off"),
        fact(
            "service_line.paused",
            line_id,
            {"reason": "Office move"},
            actortype="user",
            actorid="USR-26-000009",
        ),
    )
    edge.clock.advance(hours=3, seconds=1)
    page = visitor(edge).get(path_of(line_id))
    assert page.words(".why h2") == ["Why it is paused"]
    why = page.words(".why")[0]
    for words in (
        "approval gap Waiting for the sign-off",
        "Blocker B-1",
        "service line hold Office move",
        "by USR-26-000009",
        "for 3 h",
    ):
        assert words in why


def test_a_pause_that_cannot_be_recorded_now_keeps_the_typed_reason(edge: Edge) -> None:
    line_id, guest = edge.fresh(), visitor(edge, *MANAGE)
    with psycopg.connect(edge.conninfo) as connection:
        connection.execute("LOCK TABLE ledger.ledger_events IN EXCLUSIVE MODE")
        page = send(guest, line_id, "pause", reason="Stakeholder review")
        connection.rollback()
    assert page.status == 503
    assert "The database cannot be reached, or is too busy." in page.words(".refused")[0]
    assert page.words(".manage textarea")[0] == "Stakeholder review"


def test_usage_of_many_resources_is_shortened_and_of_too_many_left_out(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    line_id = edge.fresh("capacity")
    hours = [{"hours": 1, "resource_id": f"SCR-{number}"} for number in range(60)]
    edge.accept(*(fact("execution.checked_in", line_id, one) for one in hours))
    usage = 'section[aria-labelledby="usage"]'
    (text,) = visitor(edge).get(path_of(line_id)).words(usage)
    assert "Hours 60" in text
    assert "and 10 more" in text
    monkeypatch.setattr(stories, "MAX_PAIRS", 59)
    (text,) = visitor(edge).get(path_of(line_id)).words(usage)
    assert "Too many resources" in text


def test_every_signal_shows_its_points_and_the_sum_is_the_score(edge: Edge) -> None:
    line_id = edge.fresh()
    report = "health.signal_reported"
    edge.accept(
        fact(report, line_id, {"signal": "sla_compliance", "status": "amber", "value": 91.5}),
        fact(report, line_id, {"signal": "agent_error_rate", "status": "red", "evidence": "26 %"}),
        fact(report, line_id, {"signal": "outcome_progress", "status": "green", "value": {"a": 1}}),
    )
    page = visitor(edge).get(path_of(line_id))
    assert page.words(".sum") == ["100 − 6 − 31 = 63"]
    assert page.words(".points") == ["−6 points", "−31 points", "0 points"]
    signals = page.words(".signals li")
    assert "SLA compliance amber" in signals[0]
    assert "91.5" in signals[0]
    assert "26 %" in signals[1]
    assert '"a": 1' in signals[2]
    names = ("sla_compliance", "outcome_progress", "delivery_velocity")
    edge.accept(*(fact(report, line_id, {"signal": name, "status": "red"}) for name in names))
    page = visitor(edge).get(path_of(line_id))
    assert page.words(".sum") == ["100 − 31 − 31 − 31 − 31 = 0 (minimum 0)"]


def test_usage_is_shown_by_utc_month(edge: Edge) -> None:
    line_id = edge.fresh("capacity", started_at="2026-02-01T00:00:00Z", time="2026-02-01T00:00:00Z")
    edge.accept(
        fact("execution.checked_in", line_id, {"hours": 2.5}, time="2026-03-31T23:59:59Z"),
        fact(
            "execution.checked_in", line_id, {"hours": 4, "resource_id": "SCR-1"},
            time="2026-04-01T00:00:00Z",
        ),
    )  # fmt: skip
    guest = visitor(edge)
    page = guest.get(path_of(line_id))
    usage = page.words('section[aria-labelledby="usage"]')[0]
    assert "Usage in 2026-04" in usage
    assert "Hours 4 SCR-1 4" in usage
    assert "UTC" in usage
    assert page.all('a[rel="next"]') == []
    before = guest.get(str(page.one('a[rel="prev"]')["href"]))
    assert "Hours 2.5 No resource 2.5" in before.words('section[aria-labelledby="usage"]')[0]
    assert str(before.one('a[rel="next"]')["href"]).endswith("month=2026-04#usage")
    for month in ("2026-13", "2026-4", "april", "2099-01", "1800-01"):
        assert guest.get(f"{path_of(line_id)}?month={month}").status == 422, month


def test_the_timeline_is_also_shown_in_words_and_as_a_table(edge: Edge) -> None:
    line_id = edge.fresh()
    edge.clock.advance(hours=6, seconds=1)
    edge.accept(blocked(line_id))
    edge.clock.advance(hours=2, seconds=1)
    page = visitor(edge).get(path_of(line_id))
    label = str(page.one("#band")["aria-label"])
    assert "running 6 h, blocked 2 h" in label
    assert "Open causes: approval gap 2 h" in label
    assert label.endswith(" State now: blocked.")
    assert page.words(".legend li") == [
        "running 6 h 75 %", "blocked 2 h 25 %", "approval gap 2 h 25 %",
    ]  # fmt: skip
    rows = page.words("#intervals tbody tr")
    assert len(rows) == 2
    assert rows[0].startswith("blocked approval gap")
    assert rows[0].endswith("ongoing 2 h")
    assert next(rect.get_text() for rect in page.all("#band > rect title")).startswith("running: ")


@pytest.mark.parametrize(("most", "text"), [(2, "The last day: "), (4, "The last 7 days: ")])
def test_of_a_life_with_too_many_changes_the_latest_part_is_shown(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, most: int, text: str
) -> None:
    monkeypatch.setattr(stories, "MAX_INTERVALS", most)
    line_id = edge.fresh(time="2026-03-01T00:00:00Z")
    for days, type in ((20, "paused"), (19, "resumed"), (3, "paused"), (2, "resumed")):
        at = edge.clock() - timedelta(days=days)
        edge.accept(fact(f"service_line.{type}", line_id, time=at.isoformat()))
    page = visitor(edge).get(path_of(line_id))
    assert page.words('section[aria-labelledby="h-life"] > .quiet')[0].startswith(text)


def test_a_closed_lines_life_ends_with_it(edge: Edge) -> None:
    line_id = edge.fresh(time="2020-01-01T00:00:00Z")
    edge.accept(fact("service_line.closed", line_id, time="2020-01-13T00:00:00Z"))
    page = visitor(edge, *MANAGE).get(path_of(line_id))
    running, closed = page.words(".legend li")
    assert running == "running 12 d 100 %"
    assert closed.startswith("closed 2284 d")
    widths = [float(str(rect["width"]).rstrip("%")) for rect in page.all("#band > rect")]
    assert widths[0] > 90
    assert page.all("[popover]") == []


def test_headings_are_in_order_and_ids_unique(edge: Edge) -> None:
    line_id = edge.fresh()
    edge.accept(fact("run.started", None, {"service_line_id": line_id}), blocked(line_id))
    page = visitor(edge, *MANAGE).get(path_of(line_id))
    assert next(tag.name for tag in page.all("h1, h2, h3")) == "h1"
    assert len(page.all("h1")) == 1
    ids = [str(tag["id"]) for tag in page.all("[id]")]
    assert len(ids) == len(set(ids))


# The operator's hold.


def test_pausing_and_resuming_leads_back_to_the_line(edge: Edge) -> None:
    line_id, guest = edge.fresh(), visitor(edge, *MANAGE)
    done = send(guest, line_id, "pause", reason="Audit\r\nof the year")
    assert (done.status, done.location) == (303, path_of(line_id))
    (hold,) = edge.data(f"/v1/execution/{line_id}")["holds"]
    assert (hold["hold"], hold["reason"]) == ("operator", "Audit\nof the year")
    page = guest.get(path_of(line_id))
    assert "operator hold Audit of the year" in page.words(".why")[0]
    assert [b["popovertarget"] for b in page.all(".head button")] == ["resume-line", "change-line"]
    assert send(guest, line_id, "resume").status == 303
    assert edge.data(f"/v1/execution/{line_id}")["state"] == "running"
    page = guest.get(path_of(line_id))
    assert [b["popovertarget"] for b in page.all(".head button")] == ["pause-line"]


def test_a_pause_gets_an_end_which_the_page_tells_and_changes(edge: Edge) -> None:
    line_id, guest = edge.fresh(), visitor(edge, *MANAGE)
    end = edge.clock.now.replace(microsecond=0) + timedelta(days=2, hours=3, seconds=1)
    until = f"{end:%Y-%m-%dT%H:%M:%S}"
    assert send(guest, line_id, "pause", reason="Audit", until=until).status == 303
    page = guest.get(path_of(line_id))
    assert f"until {end:%Y-%m-%d %H:%M:%S} , in 2 d 3 h" in page.words(".why li")[0]
    change = page.form(f"{path_of(line_id)}/change")
    assert (change["reason"], change["until"]) == ("Audit", until)
    past = guest.post(f"{path_of(line_id)}/change", change | {"until": "2020-01-01T10:00"})
    assert past.status == 422
    assert past.one("section.manage [name=until]")["value"] == "2020-01-01T10:00"
    later = change | {"until": "", "reason": "Audit of the year", "request_key": "later"}
    assert guest.post(f"{path_of(line_id)}/change", later).status == 303
    (hold,) = edge.data(f"/v1/execution/{line_id}")["holds"]
    assert (hold["reason"], hold["until"]) == ("Audit of the year", None)


def test_the_shown_month_stays_after_a_form_is_sent(edge: Edge) -> None:
    line_id, guest = edge.fresh("capacity", time="2026-01-01T00:00:00Z"), visitor(edge, *MANAGE)
    address = f"{path_of(line_id)}?month=2026-02"
    page, act = guest.get(address), f"{path_of(line_id)}/pause"
    refused = guest.submit(page, act, reason=" ")
    assert "Usage in 2026-02" in refused.text
    assert refused.one('section.manage input[name="month"]')["value"] == "2026-02"
    assert refused.one(".manage .acts a")["href"] == address
    page = guest.get(address)
    assert guest.submit(page, act, reason="Office move").location == address
    late = guest.submit(page, act, reason="Too late", request_key="another")
    assert late.one("section.manage a")["href"] == address
    wrong = guest.submit(page, act, reason="r", month="2026-13")
    assert wrong.status == 422


def test_a_refused_pause_gives_the_reason_and_keeps_the_typed_text(edge: Edge) -> None:
    line_id, guest = edge.fresh(), visitor(edge, *MANAGE)
    page = guest.get(path_of(line_id))
    assert guest.submit(page, f"{path_of(line_id)}/pause", reason="first").status == 303
    fields = page.form(f"{path_of(line_id)}/pause") | {"request_key": "another"}
    refused = guest.post(f"{path_of(line_id)}/pause", fields | {"reason": "I <b>say</b>"})
    assert refused.status == 409
    # The line is paused already, so the form is not offered again.
    assert "The line is already paused." in refused.one('[role="alert"]').get_text()
    assert "I <b>say</b>" in refused.one("section.manage").get_text()
    assert not refused.all("section.manage form")
    assert len(edge.data(f"/v1/execution/{line_id}")["holds"]) == 1


@pytest.mark.parametrize("reason", ["", " \n ", "x" * 501])
def test_a_wrong_reason_is_refused_next_to_the_form(edge: Edge, reason: str) -> None:
    line_id, guest = edge.fresh(), visitor(edge, *MANAGE)
    refused = send(guest, line_id, "pause", reason=reason)
    assert refused.status == 422
    assert "Reason: " in refused.one('[role="alert"]').get_text()
    assert refused.all("textarea")[0].get_text() == reason.strip()


def test_a_form_that_is_sent_twice_is_carried_out_once_and_leads_back(edge: Edge) -> None:
    line_id, guest = edge.fresh(), visitor(edge, *MANAGE)
    path = f"{path_of(line_id)}/pause"
    fields = guest.get(path_of(line_id)).form(path) | {"reason": "r"}
    assert [guest.post(path, fields).status for _ in range(2)] == [303, 303]
    assert guest.post(path, fields | {"reason": "s"}).status == 422
    kinds = [event["type"] for event in history_of(edge, line_id)]
    assert kinds == ["execution.started", "execution.paused"]
    # The address of a refused form, opened as a page.
    for action in ("pause", "resume", "change"):
        assert guest.get(f"{path_of(line_id)}/{action}").location == path_of(line_id)


def test_a_refused_pause_is_in_the_audit_log(edge: Edge) -> None:
    line_id, guest = edge.fresh(), visitor(edge, *MANAGE)
    weak = visitor(edge)
    assert send(guest, line_id, "resume").status == 409
    fields = weak.get(path_of(line_id)).form("/ui/sign-out")
    assert weak.post(f"{path_of(line_id)}/pause", fields | {"reason": "r"}).status == 403
    entries = edge.get("/v1/audit-logs?organization_id=ORG-26-000001&outcome=refused&limit=100")
    found = [
        (entry["action"], entry["code"])
        for entry in entries.json()["data"]
        if entry["resource"] == {"type": "service_line", "id": line_id}
    ]
    assert sorted(found) == [
        ("execution.pause", "forbidden"),
        ("execution.resume", "invalid_state"),
    ]


def test_buttons_are_shown_only_if_they_would_work(edge: Edge) -> None:
    line_id = edge.fresh()
    edge.clock.advance(seconds=1)
    edge.accept(fact("execution.checked_in", line_id))
    then = edge.clock.now.isoformat().replace("+00:00", "Z")
    edge.clock.advance(seconds=1)
    manager = visitor(edge, *MANAGE)
    assert len(manager.get(path_of(line_id)).all("[popover]")) == 3
    assert manager.get(f"{path_of(line_id)}?as_of={then}").all("[popover]") == []
    assert visitor(edge).get(path_of(line_id)).all("[popover], .head button") == []


def test_the_forms_are_outside_of_the_refreshed_part(edge: Edge) -> None:
    page = visitor(edge, *MANAGE).get(path_of(edge.fresh()))
    assert page.all(".why") == [], "nothing holds it"
    assert page.all("#view [popover], #view textarea") == []
    assert len(page.all("#view button[popovertarget]")) == 1
