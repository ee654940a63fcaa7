"""The pages of watches: the list, the sentence with blanks, changes, and the starters."""

import json
from typing import Any

import msgspec
import pytest

from ledger.features.watches.kinds import KINDS
from ledger.features.watches.model.views import ShownWatch
from ledger.features.watches.model.watch import STARTERS
from ledger.features.watches.page.watch_forms import draft_of, sentence_of
from ledger.features.watches.reads import preview
from ledger.features.watches.routes.settings import WatchToTry, values_of
from tests.support.edge import Edge
from tests.support.visitor import Visited, Visitor, visitor
from tests.support.watched import BLOCKED, RIGHTS, Watched, watched

PATH, NEW = "/ui/watches", "/ui/watches/new"
PREVIEW, STARTER = "/ui/watches/preview", "/ui/watches/starters"
PAST = f"{PREVIEW}/past"


@pytest.fixture
def tenant(edge: Edge) -> Watched:
    return watched(edge)


def set_up(tenant: Watched, kind: str = "in_state", **fields: str) -> Visited:
    """Fill in the sentence of a kind, and send it."""
    return tenant.guest.submit(tenant.guest.get(f"{NEW}?kind={kind}"), PATH, **fields)


def made(tenant: Watched, kind: str = "in_state", **fields: str) -> dict[str, Any]:
    answer = set_up(tenant, kind, **fields)
    assert answer.status == 303, answer.text
    return tenant.watches()[0]


# The sentence.


def test_a_watch_is_made_from_the_sentence_as_it_stands(tenant: Watched) -> None:
    page = tenant.guest.get(NEW)
    words = " ".join(page.one(".sentence").get_text(" ").split())
    assert words.startswith("Tell us when any line any capacity line")
    answer = tenant.guest.submit(page, PATH)
    (watch,) = tenant.watches()
    assert answer.location == f"{PATH}/{watch['id']}?done=create"
    assert (watch["condition"], watch["for_seconds"]) == (BLOCKED, 7200)
    assert (watch["severity"], watch["name"]) == ("warning", "A line is in a state")
    assert (watch["hours"], watch["lines"], watch["keep_seconds"]) == (None, {}, 0)
    assert "Watch set up." in tenant.guest.get(answer.location).words(".done")[0]


def test_each_kind_that_the_api_accepts_is_one_sentence_of_the_form(tenant: Watched) -> None:
    for kind in KINDS:
        name, blanks = kind.kind(), kind.blanks()
        fields = {f"blank:{each}": "/agents" for each in blanks if blanks[each].hint}
        watch = made(tenant, name, **fields)
        assert watch["condition"]["kind"] == name
        assert watch["for_seconds"] == kind.seconds
        page = tenant.guest.get(f"{PATH}/{watch['id']}/change")
        assert page.one("select[name=kind] option[selected]")["value"] == name
        before = tenant.watches()[0]
        sent = tenant.guest.submit(page, f"{PATH}/{watch['id']}/change")
        assert sent.status == 303
        assert tenant.watches()[0] == before, "a form that is sent as it stands changes nothing"


def test_every_blank_says_what_is_watched(tenant: Watched) -> None:
    watch = made(
        tenant,
        "runs_failing",
        **{"blank:count": "5", "time": "90", "unit": "min", "severity": "critical"},
        execution_model="agent_runtime",
        product_line="ods",
        project_tag="PROJ-1, PROJ-2",
        name="  Five in a row ",
        keep="10",
        keep_unit="min",
        remind="4",
        remind_unit="h",
        hours="on",
        begin="08:00",
        end="18:00",
        time_zone="Europe/Berlin",
        **{"day:sat": "on", "day:fri": ""},
        workspace_id=tenant.workspace,
    )
    assert watch["condition"] == {"kind": "runs_failing", "count": 5}
    assert watch["for_seconds"] == 5400
    assert (watch["name"], watch["severity"]) == ("Five in a row", "critical")
    assert watch["lines"] == {
        "execution_model": ["agent_runtime"],
        "product_line": ["ods"],
        "project_tag": ["PROJ-1", "PROJ-2"],
    }
    assert (watch["keep_seconds"], watch["remind_seconds"]) == (600, 14_400)
    days = ["mon", "tue", "wed", "thu", "sat"]
    hours = {"time_zone": "Europe/Berlin", "days": days, "from": "08:00", "to": "18:00"}
    assert watch["hours"] == hours
    assert watch["workspace_id"] == tenant.workspace
    texts = tenant.guest.get(PATH).words(".watching th .ago")
    assert texts == [
        "the last 5 runs of any ODS agent runtime line of project PROJ-1 or PROJ-2 failed,"
        " 1 h 30 min ago (within Mon, Tue, Wed, Thu, Sat 08:00–18:00 Europe/Berlin)"
    ]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"condition": {"kind": "in_state", "states": ["paused", "blocked"]}, "for_seconds": 0},
         "any line is paused or blocked"),
        ({"condition": {"kind": "blocker_open", "causes": ["approval_gap", "capacity_issue"]}},
         "a blocker by approval gap or a blocker by capacity issue of any line has been open"
         " for 1 h"),
        ({"condition": {"kind": "blocker_open"}}, "any blocker of any line has been open for 1 h"),
        ({"condition": {"kind": "past_due"}}, "a blocker of any line has been past due for 1 h"),
        ({"condition": {"kind": "no_activity"}, "lines": {"service_line_id": ["LIN-26-1"]}},
         "line LIN-26-1 has had no activity for 1 h"),
        ({"condition": {"kind": "health", "status": "amber"}},
         "the health of any line has been amber or red for 1 h"),
        ({"condition": {"kind": "source_silent", "sources": ["/a", "/b"]}},
         "/a or /b has been silent for 1 h"),
        ({"condition": {"kind": "usage_over", "measure": "tokens_used", "period": "day",
                        "limit": 5000.0}, "for_seconds": 0},
         "any line has used more than 5000 tokens in a day"),
    ],
)  # fmt: skip
def test_the_sentence_of_a_watch_is_plain_english(settings: dict[str, Any], sentence: str) -> None:
    whole: dict[str, Any] = {
        "id": "WCH-26-000001", "name": "W", "organization_id": "ORG-26-000001",
        "workspace_id": None, "for_seconds": 3600, "severity": "info", "hours": None,
        "keep_seconds": 0, "remind_seconds": 0, "lines": {}, "enabled": True,
        "created_at": "2026-04-01T00:00:00Z", "updated_at": "2026-04-01T00:00:00Z",
        "looking": False, "open_alerts": 0, "overflow": 0, "endpoints": 0,
    }  # fmt: skip
    watch = msgspec.convert(whole | settings, ShownWatch)
    assert sentence_of(watch) == sentence
    sent = WatchToTry.model_validate(draft_of(watch).watching())
    assert values_of(sent, ["condition"]) == {"condition": watch.condition}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"time": "two"}, "must be a whole number"),
        ({"time": "400", "unit": "d"}, "must be less than or equal to 31536000"),
        ({"hours": "on", "begin": "9"}, "has the wrong format"),
        ({"hours": "on", "time_zone": "Europe/Atlantis"}, "must be an IANA time zone"),
        ({"remind": "1", "remind_unit": "min"}, "must be 0, or at least 300"),
        ({"name": "x" * 201}, "must have at most 200 characters"),
    ],
)
def test_a_fault_is_shown_at_the_form_which_keeps_its_values(
    tenant: Watched, fields: dict[str, str], text: str
) -> None:
    answer = set_up(tenant, **{"name": "Kept", "project_tag": "PROJ-9"} | fields)
    assert answer.status == 422
    assert text in answer.one("[role=alert]").get_text()
    values = answer.form(PATH)
    assert values["project_tag"] == "PROJ-9"
    assert answer.one("details.more").has_attr("open")
    assert {name: values[name] for name in fields} == fields
    assert tenant.watches() == []


def test_an_address_fills_in_the_sentence(tenant: Watched) -> None:
    page = tenant.guest.get(f"{NEW}?kind=in_state&blank:states=idle&service_line_id=LIN-26-000001")
    fields = page.form(PATH)
    assert (fields["blank:states"], fields["service_line_id"]) == ("idle", "LIN-26-000001")
    assert page.one("details.more").has_attr("open")


# The preview.


def test_the_preview_counts_and_names_up_to_five(tenant: Watched) -> None:
    for number in range(7):
        tenant.block(tenant.line(f"Team {number}"))
    tenant.edge.clock.advance(hours=3)
    page = tenant.guest.get(NEW)
    assert page.all(".tried ul") == []
    tried = tenant.guest.post(PREVIEW, page.form(PATH))
    assert tried.words(".tried > p") == ["Now it would open 7 alerts, such as:"]
    examples = tried.words(".tried li")
    assert len(examples) == 5
    assert all("has been blocked for 2 h by an approval gap" in each for each in examples)
    assert tenant.watches() == [], "nothing is recorded"
    narrow = tenant.guest.post(PREVIEW, page.form(PATH) | {"execution_model": "capacity"})
    assert narrow.words(".tried > p") == ["Now it would open no alert ."]
    assert narrow.form(PATH)["execution_model"] == "capacity"


def test_the_preview_of_a_change_is_about_the_tenant_of_the_watch(tenant: Watched) -> None:
    tenant.block(tenant.line("Here"))
    tenant.block(tenant.line("Elsewhere", workspace_id="WS-26-999999"))
    watch = tenant.watch("Blocked", workspace_id=tenant.workspace)
    admin = visitor(tenant.edge, "admin", organization_id=None)
    for guest in (tenant.guest, admin):
        form = guest.get(f"{PATH}/{watch}/change").form(f"{PATH}/{watch}/change")
        tried = guest.post(PREVIEW, form)
        assert tried.words(".tried > p")[0] == "Now it would open 1 alert:"
        answer = guest.post(f"{PATH}/{watch}/change", form | {"name": "Ours"})
        assert answer.status == 303
    assert tenant.watches()[0]["workspace_id"] == tenant.workspace


def test_a_preview_of_a_wrong_form_says_why_instead(tenant: Watched) -> None:
    page = tenant.guest.get(NEW)
    tried = tenant.guest.post(PREVIEW, page.form(PATH) | {"time": "two"})
    assert tried.status == 200
    assert "must be a whole number" in tried.one(".tried .refused").get_text()
    assert tried.form(PATH)["time"] == "two"


@pytest.mark.parametrize("kind", ["in_state", "blocker_open"])
def test_the_form_says_how_often_the_watch_would_have_alerted_in_30_days(
    tenant: Watched, kind: str
) -> None:
    line = tenant.line("Payments")

    def past(time: str = "2", **more: str) -> str:
        guest = Visitor(tenant.edge, tenant.token)  # a session ends within the month
        fields = guest.get(f"{NEW}?kind={kind}").form(PATH) | {"time": time, "unit": "h"}
        return guest.post(PAST, fields | more).words(".earlier")[0]

    assert past() == "In the last 30 days it would have opened no alert ."
    for hours in (3, 1, 5):
        tenant.block(line)
        tenant.edge.clock.advance(hours=hours)
        tenant.unblock(line)
        tenant.edge.clock.advance(hours=1)
    assert past() == "In the last 30 days it would have opened 2 alerts ."
    assert past(keep="1") == "In the last 30 days it would have opened at most 2 alerts ."
    assert past(time="4") == "In the last 30 days it would have opened 1 alert ."
    tenant.edge.clock.advance(days=30, hours=-3)
    assert past(time="4") == "In the last 30 days it would have opened 1 alert ."
    assert past() == "In the last 30 days it would have opened no alert ."
    assert tenant.watches() == [], "nothing is recorded"


def test_the_past_is_read_once_the_form_shows_what_holds_now(tenant: Watched) -> None:
    assert tenant.guest.get(PAST).location == PATH
    page = tenant.guest.get(NEW)
    assert page.all(".earlier") == []
    (earlier,) = tenant.guest.post(PREVIEW, page.form(PATH)).all(".tried .earlier")
    assert (earlier["hx-post"], earlier["hx-trigger"]) == (PAST, "load delay:500ms")
    assert [button["formaction"] for button in earlier.select("button")] == [PAST]
    assert tenant.guest.post(PREVIEW, page.form(PATH) | {"time": "two"}).all(".earlier") == []
    for kind in ("past_due", "health", "no_activity"):
        fields = tenant.guest.get(f"{NEW}?kind={kind}").form(PATH)
        assert tenant.guest.post(PREVIEW, fields).all(".earlier") == []


def test_the_past_of_too_many_lines_is_not_shown(
    tenant: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        tenant.line(f"Team {number}")
    monkeypatch.setattr(preview, "MOST_LINES", 2)
    fields = tenant.guest.get(NEW).form(PATH)
    answer = tenant.guest.post(PAST, fields)
    assert answer.status == 200
    assert answer.words(".earlier") == ["The last 30 days cannot be shown. Lines: are more than 2."]
    assert answer.form(PATH)["blank:states"] == "blocked"


# The fields for ids.


def test_chosen_lines_and_projects_are_named_below_their_fields(tenant: Watched) -> None:
    tag = "PROJ-26-008801"
    tenant.report("directory.named", tag, {"name": "Atlas rollout"})
    line = tenant.line("Atlas pod", project_tags=[tag])
    chosen = {"service_line_id": f"{line}, LIN-26-999999, ", "project_tag": f"{tag},x"}
    page = tenant.guest.get(NEW, params=chosen)
    assert page.form(PATH)["service_line_id"] == chosen["service_line_id"]
    assert page.words("#named-service_line_id") == [f"Atlas pod {line}"]
    assert page.words("#named-project_tag") == [f"Atlas rollout {tag}"]
    watch = made(tenant, **chosen)
    assert watch["lines"] == {
        "project_tag": [tag, "x"],
        "service_line_id": sorted([line, "LIN-26-999999"]),
    }
    tried = tenant.guest.post(PREVIEW, page.form(PATH) | {"project_tag": ""})
    assert tried.words("#named-project_tag") == [""]
    stranger = visitor(tenant.edge, *RIGHTS, organization_id="ORG-26-000002")
    assert stranger.get(NEW, params=chosen).words("#named-service_line_id") == [""]


def test_a_field_offers_lines_projects_or_sources_that_fit(tenant: Watched) -> None:
    tag = "PROJ-26-008802"
    tenant.report("directory.named", tag, {"name": "Atlas rollout"})
    line = tenant.line("Atlas pod", project_tags=[tag, "atlas,2"])
    page = tenant.guest.get(NEW)
    assert page.one("[name=service_line_id]")["data-offers"] == "line"
    assert page.one("[name=project_tag]")["data-offers"] == "project"
    silent = tenant.guest.get(f"{NEW}?kind=source_silent")
    assert silent.one("[name='blank:sources']")["data-offers"] == "source"

    def offered(guest: Any, type: str, **more: str) -> list[str]:
        answer = guest.get("/ui/search/results", params={"type": type, **more})
        assert answer.all("a") == []
        return [str(option["data-value"]) for option in answer.all("[role=option]")]

    assert offered(tenant.guest, "line", q="atlas") == [line]
    assert offered(tenant.guest, "project", q="atlas") == [tag], "a comma stands between ids"
    assert offered(tenant.guest, "source") == ["/tests"]
    assert offered(tenant.guest, "source", q="TEST") == ["/tests"]
    assert offered(tenant.guest, "source", q="/else") == []
    admin = visitor(tenant.edge, "admin", organization_id=None)
    assert offered(admin, "line", q="atlas pod", organization_id=tenant.organization) == [line]
    assert offered(admin, "line", q="atlas pod", organization_id="ORG-26-000002") == []
    assert tenant.guest.get("/ui/search/results?type=run&q=atlas").status == 422


# The list and a watch.


def test_the_list_tells_how_watches_do(tenant: Watched) -> None:
    watch = tenant.watch("Blocked lines", "critical")
    tenant.block(tenant.line("Payments"))
    tenant.run_watches()
    page = tenant.guest.get(PATH)
    (row,) = page.words(".watching tbody tr")
    assert row.startswith("Blocked lines any line is blocked critical 1 alerts")
    assert "no endpoint" in row
    (link,) = page.all(".watching td.number a")
    assert link["href"] == f"/ui/alerts?watch_id={watch}&status=open,acknowledged"
    assert len(tenant.guest.get(str(link["href"])).all(".alerting tbody tr:not(.head)")) == 1
    assert tenant.guest.get(f"{PATH}?workspace_id=WS-26-000001").text.count("No watches match") == 1
    assert tenant.guest.get(f"/ui/search?q={watch}").location == f"{PATH}/{watch}"


def test_a_watch_is_changed_disabled_and_enabled(tenant: Watched) -> None:
    watch = tenant.watch("Blocked lines")
    tenant.block(tenant.line("Payments"))
    tenant.run_watches()
    page = f"{PATH}/{watch}"
    form = tenant.guest.get(f"{page}/change")
    assert "the open alert of this watch is resolved" in form.text
    tenant.guest.submit(form, f"{page}/change", severity="info", name="Calm")
    (changed,) = tenant.watches()
    assert (changed["severity"], changed["name"]) == ("info", "Calm")
    assert tenant.alerts()[0]["status"] == "open", "the condition is as before"
    for enabled, done in (("false", "disable"), ("true", "enable")):
        answer = tenant.guest.submit(tenant.guest.get(page), f"{page}/switch")
        assert answer.location == f"{page}?done={done}"
        assert tenant.watches()[0]["enabled"] == (enabled == "true")


def test_another_kind_of_the_same_watch_is_another_sentence(tenant: Watched) -> None:
    watch = tenant.watch("Blocked lines", severity="info")
    page = tenant.guest.get(f"{PATH}/{watch}/change?kind=no_activity")
    fields = page.form(f"{PATH}/{watch}/change")
    assert (fields["kind"], fields["time"], fields["unit"]) == ("no_activity", "5", "d")
    assert (fields["severity"], fields["name"]) == ("info", "Blocked lines")
    assert tenant.guest.post(f"{PATH}/{watch}/change", fields).status == 303
    assert tenant.watches()[0]["condition"] == {"kind": "no_activity"}


def test_a_refused_change_is_shown_at_the_form(tenant: Watched) -> None:
    watch = tenant.watch("Blocked lines")
    form = tenant.guest.get(f"{PATH}/{watch}/change")
    answer = tenant.guest.submit(form, f"{PATH}/{watch}/change", time="two")
    assert answer.status == 422
    assert answer.form(f"{PATH}/{watch}/change")["time"] == "two"
    assert tenant.guest.get(f"{PATH}/WCH-26-999999/change").status == 404


def test_a_change_too_many_is_shown_at_the_form_and_at_the_switch(tenant: Watched) -> None:
    watch = tenant.watch("Blocked lines", for_seconds=3600)
    change, switch = f"{PATH}/{watch}/change", f"{PATH}/{watch}/switch"
    for hours in range(2, 7):
        answer = tenant.guest.submit(tenant.guest.get(change), change, time=f"{hours}")
        assert answer.status == 303
    answer = tenant.guest.submit(tenant.guest.get(change), change, time="7")
    assert answer.status == 429
    assert "The watch has begun 5 revisions in 5 minutes" in answer.text
    assert answer.form(change)["time"] == "7"
    tenant.guest.submit(tenant.guest.get(f"{PATH}/{watch}"), switch)
    answer = tenant.guest.submit(tenant.guest.get(f"{PATH}/{watch}"), switch)
    assert (answer.status, tenant.watches()[0]["enabled"]) == (429, False)
    assert "The watch has begun 5 revisions in 5 minutes" in answer.text


def test_a_value_of_several_words_stays_as_it_is(tenant: Watched) -> None:
    lines = {"execution_model": ["agent_runtime", "capacity"]}
    causes = {"kind": "blocker_open", "causes": ["approval_gap", "capacity_issue"]}
    watch = tenant.watch("Several", condition=causes, lines=lines, for_seconds=61)
    form = tenant.guest.get(f"{PATH}/{watch}/change")
    fields = form.form(f"{PATH}/{watch}/change")
    assert (fields["time"], fields["unit"]) == ("61", "s")
    tenant.guest.post(f"{PATH}/{watch}/change", fields)
    (same,) = tenant.watches()
    assert (same["condition"], same["lines"], same["for_seconds"]) == (causes, lines, 61)


# The starters.


def test_an_organization_without_watches_is_offered_six_in_one_click(tenant: Watched) -> None:
    page = tenant.guest.get(PATH)
    assert len(page.all(".starters li")) == len(STARTERS) == 6
    fields = page.form(STARTER)
    for _ in range(2):
        answer = tenant.guest.post(STARTER, fields)
        assert answer.location == f"{PATH}?done=starters"
    found = {watch["name"]: watch for watch in tenant.watches()}
    assert {*found} == {starter.name for starter in STARTERS}
    for starter in STARTERS:
        values = json.loads(msgspec.json.encode(starter))
        assert {name: found[starter.name][name] for name in values} == values
    assert tenant.guest.get(PATH).all(".starters") == []


def test_an_administrator_sets_up_starters_of_one_organization(tenant: Watched) -> None:
    admin = visitor(tenant.edge, "admin", organization_id=None)
    page = admin.get(f"{PATH}?organization_id={tenant.organization}")
    assert admin.submit(page, STARTER).status == 303
    assert len(tenant.watches()) == 6


# Permissions.


def test_only_who_manages_watches_and_reads_lines_is_offered_to(tenant: Watched) -> None:
    watch = tenant.watch()
    fields = tenant.guest.get(NEW).form(PATH)
    reader = visitor(tenant.edge, "read", organization_id=tenant.organization)
    for path in (NEW, f"{PATH}/{watch}/change"):
        assert reader.get(path).status == 403
    keys = {"form_key": reader.get(PATH).form("/ui/zone")["form_key"], "request_key": "k"}
    for path in (PREVIEW, STARTER):
        assert reader.post(path, fields | keys).status == 403, path
        assert reader.post(path, keys).status == 403, path
    assert reader.get(PATH).all(".starters") == []
    manager = visitor(tenant.edge, "watches:manage", organization_id=tenant.organization)
    assert manager.get(NEW).status == 403, "the preview reads lines"


def test_a_reader_of_an_empty_list_learns_who_can_set_watches_up(tenant: Watched) -> None:
    reader = visitor(tenant.edge, "read", organization_id=tenant.organization)
    page = reader.get(PATH)
    assert "A key that may manage watches sets them up" in page.text
    assert page.all("main form[method=post]") == []


def test_the_pages_of_watches_are_found_by_name(tenant: Watched) -> None:
    results = tenant.guest.get("/ui/search/results?q=watch")
    assert results.all(f'a[href="{PATH}"]')
