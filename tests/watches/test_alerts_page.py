"""The pages of alerts: the list, one alert, acknowledgements, and the bell of every page."""

import csv
import io

import pytest

from ledger.features.watches.page import bell
from tests.support.edge import Edge
from tests.support.visitor import Visited, visitor
from tests.support.watched import Watched, watched

PATH, FORM = "/ui/alerts", "/ui/alerts/acknowledge"


@pytest.fixture
def tenant(edge: Edge) -> Watched:
    return watched(edge)


@pytest.fixture
def story(tenant: Watched) -> Watched:
    """Four alerts: open ones of two watches, an acknowledged one, and a resolved one."""
    tenant.watch()
    tenant.watch("Any blocker", "info", condition={"kind": "blocker_open"})
    for name in ("Payments gateway", "Ledger team", "Search team"):
        tenant.block(tenant.line(name))
        tenant.run_watches()
    _, second, third = reversed(tenant.alerts("severity=critical"))
    tenant.unblock(third["service_line_id"])
    tenant.run_watches()
    body = {"note": "On it.", "assignee": "Amara", "until": "2031-01-01T10:00:00Z"}
    done = tenant.edge.post(f"/v1/alerts/{second['id']}/acknowledge", tenant.token, json=body)
    assert done.status_code == 200, done.text
    return tenant


def rows(page: Visited) -> list[str]:
    return page.words(".alerting tbody tr:not(.head) th .text")


def heads(page: Visited) -> list[str]:
    return page.words(".alerting tr.head")


# The list.


def test_open_alerts_come_first_and_the_worst_first(story: Watched) -> None:
    page = story.guest.get(PATH)
    assert heads(page) == ["open 3", "acknowledged 1", "resolved 2"]
    grades = page.words(".alerting .grade")
    assert grades == ["critical", "info", "info", "critical", "critical", "info"]
    assert rows(page)[0] == "Payments gateway is blocked by an approval gap: Not approved."
    assert page.words(".bar .chosen li") == ["open 3", "acknowledged 1", "resolved 2"]


def test_a_row_leads_to_its_line_and_watch_and_tells_who_takes_care(story: Watched) -> None:
    page = story.guest.get(f"{PATH}?status=acknowledged")
    (alert,) = story.alerts("status=acknowledged")
    links = {link["href"] for link in page.all(".alerting tbody a")}
    line, watch = alert["service_line_id"], alert["watch_id"]
    assert {f"/ui/lines/{line}", f"/ui/watches/{watch}", f"{PATH}/{alert['id']}"} <= links
    (care,) = page.words(".care")
    assert care.startswith("Amara acknowledged by")
    assert "until 2031-01-01 10:00:00" in care
    assert "“ On it. ”" in care
    (since,) = page.words(".times > time")
    assert since == "< 1 min ago"
    assert str(page.one(".times > time")["title"]).endswith(" UTC")


def test_a_run_is_linked_as_the_subject_of_its_alert(tenant: Watched) -> None:
    line = tenant.line("Crawler")
    tenant.watch(condition={"kind": "run_open", "statuses": ["running"]})
    tenant.report("run.started", None, {"service_line_id": line})
    tenant.run_watches()
    (alert,) = tenant.alerts()
    page = tenant.guest.get(PATH)
    assert page.all(f'.alerting a[href="/ui/runs/{alert["subject"]["id"]}"]')


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("status=open", 3),
        ("status=open,acknowledged", 4),
        ("status=resolved", 2),
        ("severity=info", 3),
        ("assignee=Amara", 1),
        ("assignee=Nobody", 0),
    ],
)
def test_a_filter_leaves_the_alerts_that_it_names(story: Watched, query: str, number: int) -> None:
    page = story.guest.get(f"{PATH}?{query}")
    assert len(rows(page)) == number
    value = query.partition("=")[2]
    (chip,) = page.all("ul[aria-label='Active filters'] a")
    assert value in chip.get_text()
    assert chip["href"] == PATH
    exported = page.all("#downloads a")
    assert all(query.replace(",", "%2C") in str(link["href"]) for link in exported)
    assert bool(exported) == bool(number)
    if not number:
        assert "No alerts match these filters" in page.text


def test_alerts_of_a_watch_a_line_and_a_workspace_are_found_by_its_id(story: Watched) -> None:
    (alert,) = story.alerts("status=acknowledged")
    for name, number in (("watch_id", 3), ("service_line_id", 2)):
        page = story.guest.get(f"{PATH}?{name}={alert[name]}")
        assert len(rows(page)) == number
        (chip,) = page.words("ul[aria-label='Active filters'] a")
        assert ("Blocked" if name == "watch_id" else "Ledger team") in chip
    assert len(rows(story.guest.get(f"{PATH}?workspace_id={story.workspace}"))) == 6
    assert rows(story.guest.get(f"{PATH}?workspace_id=WS-26-000001")) == []


def test_alerts_are_grouped_by_line_or_by_watch_as_the_address_says(story: Watched) -> None:
    page = story.guest.get(f"{PATH}?group_by=service_line&status=open,acknowledged")
    assert heads(page) == ["Payments gateway 2 on this page", "Ledger team 2 on this page"]
    (chosen,) = page.words(".orders [aria-current]")
    assert chosen == "line"
    page = story.guest.get(f"{PATH}?group_by=watch")
    assert heads(page) == ["Blocked 3 on this page", "Any blocker 3 on this page"]
    assert page.words(".alerting .grade")[1] == "critical acknowledged", "the status is a word too"


def test_a_page_leads_to_the_next_one_across_statuses(story: Watched) -> None:
    page, found = story.guest.get(f"{PATH}?limit=2"), list[str]()
    for _ in range(3):
        found += rows(page)
        following = page.all(".pager a[rel=next]")
        if following:
            page = story.guest.get(str(following[0]["href"]))
    assert len(found) == 6
    assert not following
    assert found == rows(story.guest.get(PATH))
    assert story.guest.get(f"{PATH}?cursor=open~x").status == 400
    assert story.guest.get(f"{PATH}?status=open&cursor=resolved~").status == 400


def test_the_list_of_an_instant_shows_the_alerts_of_then_and_changes_nothing(
    tenant: Watched,
) -> None:
    tenant.watch()
    tenant.block(line := tenant.line("Payments gateway"))
    tenant.run_watches()
    then = tenant.edge.clock.now
    tenant.edge.clock.advance(hours=3)
    tenant.unblock(line)
    tenant.run_watches()
    assert heads(tenant.guest.get(PATH)) == ["resolved 1"]
    page = tenant.guest.get(f"{PATH}?as_of={then:%Y-%m-%dT%H:%M:%S.%fZ}")
    assert heads(page) == ["open 1"]
    assert page.all(".tick, [href^='/ui/alerts/acknowledge']") == []
    assert all("as_of=" in str(link["href"]) for link in page.all("th .text, #downloads a"))
    assert not page.one("#view").has_attr("data-stream")


def test_the_file_has_the_rows_of_the_filters(story: Watched) -> None:
    page = story.guest.get(f"{PATH}?status=open")
    (link,) = [str(a["href"]) for a in page.all("#downloads a") if "csv" in str(a["href"])]
    file = list(csv.DictReader(io.StringIO(story.guest.get(link).answer.text)))
    assert [row["severity"] for row in file] == ["critical", "info", "info"]


def test_an_empty_list_says_what_to_do(tenant: Watched) -> None:
    page = tenant.guest.get(PATH)
    assert "There is no watch yet." in page.text
    assert page.words("a.button.primary") == ["Set up a watch"]
    reader = visitor(tenant.edge, "read", organization_id=tenant.organization)
    assert reader.get(PATH).words(".empty a.button") == ["Watches"]
    tenant.watch()
    assert "1 watch checks your lines, and has found nothing." in tenant.guest.get(PATH).text


def test_words_of_a_tenant_are_no_markup_on_the_page(tenant: Watched) -> None:
    tenant.watch("<i>Watch</i>")
    tenant.block(tenant.line("<b>Bold</b>"), reason="<script>alert(1)</script>")
    tenant.run_watches()
    page = tenant.guest.get(PATH)
    assert rows(page)[0].startswith("<b>Bold</b> is blocked")
    assert page.all(".alerting i, .alerting tbody b") == []


# One alert.


def test_an_alert_has_a_page_with_its_evidence_and_its_end(story: Watched) -> None:
    (alert,) = story.alerts("status=resolved&severity=critical")
    page = story.guest.get(f"{PATH}/{alert['id']}")
    assert page.words("h1") == [alert["text"]]
    assert page.all(f'a[href="/ui/events/{alert["evidence"][0]}"]')
    assert "recovered" in page.text
    assert page.all("[href^='/ui/alerts/acknowledge']") == []
    (alert,) = story.alerts("status=acknowledged")
    page = story.guest.get(f"{PATH}/{alert['id']}")
    assert page.words("[href^='/ui/alerts/acknowledge']") == [f"Change… {alert['id']}"]
    assert story.guest.get(f"{PATH}/ALR-26-999999").status == 404
    assert story.guest.get(f"/ui/search?q={alert['id']}").location == f"{PATH}/{alert['id']}"


# Acknowledging.


def test_many_alerts_are_acknowledged_by_one_form_and_once(story: Watched) -> None:
    ids = [alert["id"] for alert in story.alerts("status=open")]
    page = story.guest.get(f"{FORM}?alert={ids[0]}&alert={ids[1]}&alert={ids[2]}")
    assert page.words("h1") == ["Acknowledge 3 alerts"]
    assert len(page.words(".told li")) == 3
    fields = page.form(FORM) | {"note": "One\r\ntwo", "assignee": "Amara"}
    fields["until"] = "2031-02-01T10:00"
    for _ in range(2):
        done = story.guest.post(FORM, fields)
        assert done.words("h1") == ["Acknowledged 3 alerts"]
    assert story.alerts("status=open") == []
    (ack,) = [a["acknowledged"] for a in story.alerts("assignee=Amara") if a["id"] == ids[0]]
    assert (ack["note"], ack["until"]) == ("One\ntwo", "2031-02-01T10:00:00Z")
    types = story.edge.data("/v1/events?type=alert.acknowledged", story.token)
    assert len(types) == 4, "one before, and three by the form"


def test_the_form_of_an_acknowledged_alert_is_filled_in(story: Watched) -> None:
    (alert,) = story.alerts("status=acknowledged")
    fields = story.guest.get(f"{FORM}?alert={alert['id']}&next={PATH}/{alert['id']}").form(FORM)
    assert (fields["note"], fields["assignee"]) == ("On it.", "Amara")
    assert fields["until"] == "2031-01-01T10:00:00"
    done = story.guest.post(FORM, fields | {"note": "", "assignee": "", "until": ""})
    assert [a["href"] for a in done.all("[data-leave]")] == [f"{PATH}/{alert['id']}"]
    (again,) = [each for each in story.alerts() if each["id"] == alert["id"]]
    ack = again["acknowledged"]
    assert (ack["note"], ack["assignee"], ack["until"]) == (None, None, None)


def test_an_alert_that_was_resolved_meanwhile_is_reported_with_the_others(story: Watched) -> None:
    (over,) = story.alerts("status=resolved&severity=critical")
    alert = story.alerts("status=open")[0]
    fields = story.guest.get(f"{FORM}?alert={alert['id']}").form(FORM)
    done = story.guest.post(FORM, fields | {"alert": f"{alert['id']},{over['id']}"})
    assert done.words("h1") == ["Acknowledged 1 alert"]
    assert done.words(".told li") == [f"{over['id']} is resolved already"]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"until": "2020-01-01T10:00"}, "Until: must lie in the future."),
        ({"until": "soon"}, "Until: must be a date and a time, such as 2026-11-30 18:00."),
        ({"note": "x" * 501}, "Note: must have at most 500 characters."),
        ({"alert": ""}, "choose at least one"),
    ],
)
def test_a_wrong_form_changes_nothing_and_keeps_what_was_typed(
    story: Watched, wrong: dict[str, str], text: str
) -> None:
    alert = story.alerts("status=open")[0]
    fields = story.guest.get(f"{FORM}?alert={alert['id']}").form(FORM)
    page = story.guest.post(FORM, fields | {"assignee": "Amara"} | wrong)
    assert page.status == 422
    assert text in page.one("[role=alert]").get_text()
    assert page.one("[name=assignee]")["value"] == "Amara"
    assert len(story.alerts("status=open")) == 3


def test_only_who_manages_lines_is_offered_to_acknowledge(story: Watched) -> None:
    alert = story.alerts("status=open")[0]
    fields = story.guest.get(f"{FORM}?alert={alert['id']}").form(FORM)
    reader = visitor(story.edge, "read", organization_id=story.organization)
    page = reader.get(PATH)
    assert page.all(".tick, .selection, dialog.acting, [href^='/ui/alerts/acknowledge']") == []
    assert reader.get(f"{FORM}?alert={alert['id']}").status == 403
    form_key = page.form("/ui/zone")["form_key"]
    assert reader.post(FORM, fields | {"form_key": form_key}).status == 403
    stranger = visitor(story.edge, organization_id="ORG-26-000002")
    assert rows(stranger.get(PATH)) == []
    assert stranger.get(f"{PATH}/{alert['id']}").status == 404
    assert visitor(story.edge, "audit:read").get(PATH).status == 403


def test_the_form_of_no_alert_leads_back(tenant: Watched) -> None:
    assert tenant.guest.get(FORM).location == PATH
    assert tenant.guest.get(f"{FORM}?next={PATH}?status=open").location == f"{PATH}?status=open"


# The bell.


def bell_of(page: Visited) -> tuple[str, str]:
    """The words of the bell for people who use a screen reader, and for people who see it."""
    found = page.one("#bell")
    mark = found.select_one("b")
    words = found.select_one(".unseen")
    assert words is not None
    return words.get_text(), mark.get_text() if mark else ""


def test_the_bell_of_every_page_counts_the_open_alerts(story: Watched) -> None:
    for path in ("/ui", PATH, "/ui/usage?from=2026-04-01&to=2026-04-02&time_zone=UTC", "/ui/runs"):
        page = story.guest.get(path)
        assert bell_of(page) == ("3 open alerts", "3"), path
        assert page.one("#bell")["href"] == PATH
    for alert in story.alerts("status=open")[1:]:
        story.edge.post(f"/v1/alerts/{alert['id']}/acknowledge", story.token, json={})
    assert bell_of(story.guest.get("/ui")) == ("1 open alert", "1")
    stranger = visitor(story.edge, organization_id="ORG-26-000003")
    assert bell_of(stranger.get("/ui")) == ("No open alerts", "")
    writer = visitor(story.edge, "audit:read", organization_id=story.organization)
    assert writer.get("/ui/audit").all("#bell") == []


def test_a_refresh_of_a_page_brings_the_bell_too(story: Watched) -> None:
    for path in ("/ui", PATH, "/ui/events", "/ui/runs"):
        assert "#bell" in str(story.guest.get(path).one("#view")["hx-select-oob"]), path


def test_the_bell_shows_no_greater_number_than_99() -> None:
    many = bell.Bell()
    assert (many.number, many.words) == ("", "Alerts")
    many.count = bell.MOST + 1
    assert (many.number, many.words) == ("99+", "more than 99 open alerts")
    many.count = bell.MOST
    assert (many.number, many.words) == ("99", "99 open alerts")
