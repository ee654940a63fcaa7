"""The pages of a line's runs, of the runs of all lines, and of a run."""

from contextlib import closing
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from ledger.engine.log.event_log import Log
from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION, activation, fact
from tests.support.leases import listen
from tests.support.ledger import new_id
from tests.support.views import until
from tests.support.visitor import Visited, Visitor, visitor


def run_of(edge: Edge, line_id: str, *kinds: str, **data: Any) -> str:
    """A run with these facts, ten seconds apart; the last fact has ``data``."""
    run = new_id("RUN")
    for kind in kinds:
        begun = {"service_line_id": line_id} if kind in ("requested", "started") else {}
        more = data if kind == kinds[-1] else {}
        edge.accept(fact(f"run.{kind}", run, begun | more, time=edge.clock.now.isoformat()))
        edge.clock.advance(seconds=10)
    return run


def runs_path(line_id: str) -> str:
    return f"/ui/lines/{line_id}/runs"


def listed(page: Visited) -> list[str]:
    return [str(row["id"]) for row in page.all(".run-rows tbody tr")]


def paged(guest: Visitor, path: str) -> list[str]:
    page, found = guest.get(path), list[str]()
    while True:
        found += listed(page)
        following = page.all('a[rel="next"]')
        if not following:
            return found
        page = guest.get(str(following[0]["href"]))


def test_the_label_of_the_bars_says_how_many_runs_the_table_shows(edge: Edge) -> None:
    line_id, guest = edge.fresh(), visitor(edge)
    for count, text in ((8, "shows the same runs"), (9, "shows the latest 8 runs")):
        while len(edge.data(f"/v1/execution/{line_id}/runs?limit=100")) < count:
            run_of(edge, line_id, "started")
        page = guest.get(f"/ui/lines/{line_id}")
        assert str(page.one("#bars")["aria-label"]).endswith(f"The table below {text}.")
        assert len(page.all(".run-rows tbody tr")) == 8


def test_each_run_is_a_bar_that_leads_to_it_the_oldest_first(edge: Edge) -> None:
    line_id = edge.fresh()
    done = run_of(edge, line_id, "started", "completed", duration_ms=1500)
    failed = run_of(edge, line_id, "started", "failed", duration_ms=90_000)
    never = run_of(edge, line_id, "requested", "cancelled")
    still = run_of(edge, line_id, "started")
    page = visitor(edge).get(f"/ui/lines/{line_id}")
    label = str(page.one("#bars")["aria-label"])
    assert "on a logarithmic scale. The table below shows the same runs." in label
    assert "on a logarithmic scale" in page.words("figure.runs figcaption")[0]
    bars = page.all("#bars a")
    assert [bar["href"] for bar in bars] == [f"/ui/runs/{r}" for r in (done, failed, never, still)]
    titles = page.words("#bars title")
    assert titles[0].startswith(f"{done}: completed, started 2026-")
    assert titles[0].endswith(", 1.5 s")
    assert titles[2].endswith("not started")
    assert titles[3].endswith("10 s so far")
    heights = [float(str(bar.select_one(".bar")["height"])) for bar in bars]  # type: ignore[index]
    assert heights[2] < heights[0] < heights[3] < heights[1]
    fills = [str(bar.select_one(".bar")["fill"]) for bar in bars]  # type: ignore[index]
    assert len(set(fills)) == 4
    assert listed(page) == [still, never, failed, done]


def test_runs_that_have_not_started_are_counted_without_an_empty_plot(edge: Edge) -> None:
    line_id, guest = edge.fresh(), visitor(edge)
    run_of(edge, line_id, "requested")
    run_of(edge, line_id, "requested", "cancelled")
    for path in (f"/ui/lines/{line_id}", runs_path(line_id)):
        page = guest.get(path)
        assert page.words("figure.runs") == [
            "No durations: none of the runs shown has started. pending 1 cancelled 1"
        ]
        assert page.all("figure.runs .plot") == []
    run_of(edge, line_id, "started")
    assert len(guest.get(f"/ui/lines/{line_id}").all("#bars a")) == 3


def test_all_runs_are_reached_page_by_page(edge: Edge) -> None:
    line_id = edge.fresh()
    runs = [run_of(edge, line_id, "requested") for _ in range(7)]
    guest = visitor(edge)
    for path in (f"{runs_path(line_id)}?limit=3", f"/ui/runs?service_line_id={line_id}&limit=3"):
        assert paged(guest, path) == runs[::-1]


def test_filters_stay_in_the_form_and_are_chips(edge: Edge) -> None:
    line_id = edge.fresh(workspace_id="WS-26-000777")
    run = run_of(edge, line_id, "started", "failed", error={"code": "E9"})
    guest = visitor(edge)
    for path, query, stream in (
        ("/ui/runs", f"service_line_id={line_id}&status=failed", f"?service_line_id={line_id}"),
        ("/ui/runs", "workspace_id=WS-26-000777", "?workspace_id=WS-26-000777"),
        ("/ui/runs", f"status=failed&service_line_id={line_id},LIN-1", ""),
        (runs_path(line_id), "status=failed,completed", f"?service_line_id={line_id}"),
    ):
        page = guest.get(f"{path}?{query}")
        assert listed(page) == [run], query
        assert page.form(path) | dict(parse_qsl(query)) == page.form(path)
        assert len(page.all(".chosen a")) == query.count("=")
        # The stream takes one value of a filter.
        assert page.one("#view")["data-stream"] == f"/ui/stream{stream}"
    for path in ("/ui/runs", runs_path(line_id)):
        page = guest.get(f"{path}?from=2020-01-01&to=2020-01-02")
        assert "No runs match these filters" in page.text
        bounds = [text.partition(" 2020")[0] for text in page.words(".chosen .chip")]
        assert bounds == ["Requested from", "Requested before"]
        assert guest.get(f"{path}?status=lost").status == 422
        assert guest.get(f"{path}?cursor=lost").status == 400
    guest.http.cookies.set("ledger_zone", "Asia/Kathmandu", path="/ui")
    moved = guest.get("/ui/runs?status=failed&from_local=2026-04-02T05:45")
    assert moved.location == "/ui/runs?status=failed&from=2026-04-02T00%3A00%3A00Z"


def test_lists_show_error_tokens_external_id_and_parent(edge: Edge) -> None:
    line_id = edge.fresh(name="Payments <pod>")
    parent = run_of(edge, line_id, "started")
    error = {"code": "E7", "message": "<No> disk" + " left" * 200}
    begun = {"external_id": "build 7", "parent_run_id": parent}
    run = run_of(edge, line_id, "started", **begun)
    edge.accept(fact("run.failed", run, {"error": error, "duration_ms": 90_000}))
    secret = "planted-in-a-payload"
    done = run_of(edge, line_id, "started", "completed", tokens_used=1234, output=secret)
    guest = visitor(edge)
    for path in (runs_path(line_id), f"/ui/lines/{line_id}", "/ui/runs"):
        page = guest.get(path)
        (row,) = page.words(f".run-rows #{run}")
        assert "failed E7 <No> disk" in row
        assert "1 min 30 s" in row
        assert f"external ID build 7 child of {parent}" in row
        assert page.one(f'.run-rows #{run} a[href="/ui/runs/{parent}"]')
        assert "1,234" in page.words(f".run-rows #{done}")[0]
        (shortened,) = page.words(f".run-rows #{run} .error bdi")
        assert shortened.endswith("...")
        assert 190 < len(shortened) <= 200
        assert secret not in page.answer.text
    assert "of Payments <pod>" in page.words(f"#{run} th")[0]
    assert error["message"] in guest.get(f"/ui/runs/{run}").words(".failed")[0]


def test_a_list_of_the_past_shows_the_lines_name_of_then_and_no_later_error(edge: Edge) -> None:
    line_id = edge.fresh(name="Core pod")
    run = run_of(edge, line_id, "started")
    then = edge.clock.now
    edge.clock.advance(seconds=10)
    edge.accept(
        fact("run.failed", run, {"error": {"code": "E7"}}),
        fact("service_line.updated", line_id, {"name": "Shop pod"}),
    )
    guest = visitor(edge)
    for path in (runs_path(line_id), "/ui/runs"):
        past = guest.get(f"{path}?as_of={then:%Y-%m-%dT%H:%M:%S.%fZ}")
        assert past.words(f"#{run} .state") == ["running"]
        assert past.all(f"#{run} .error") == []
        now = guest.get(path)
        assert "E7" in now.words(f"#{run} .error")[0]
    assert "of Core pod" in past.words(f"#{run} th")[0]
    assert "of Shop pod" in now.words(f"#{run} th")[0]


def test_a_lines_runs_are_found_by_external_id_and_by_parent(edge: Edge) -> None:
    line_id, other = edge.fresh(), edge.fresh()
    parent = run_of(edge, line_id, "started")
    mine = run_of(edge, line_id, "started", external_id="b 1", parent_run_id=parent)
    theirs = run_of(edge, other, "started", external_id="b 2", parent_run_id=parent)
    guest, path = visitor(edge), runs_path(line_id)
    for query in ("external_id=b+1,b+2", f"parent_run_id={parent}"):
        page = guest.get(f"{path}?{query}")
        assert listed(page) == [mine]
        assert page.words(".chosen li")[0].startswith(("External ID b 1,b 2", "Child of run RUN-"))
        assert listed(guest.get(f"/ui/runs?{query}")) == [theirs, mine]
    assert listed(guest.get(f"{path}?external_id=b+1&status=failed")) == []
    assert guest.get("/ui/lines/LIN-26-999999/runs?external_id=b").status == 404


def test_a_line_that_has_no_runs_and_one_without_any_yet_say_so(edge: Edge) -> None:
    guest = visitor(edge)
    for model, status, text in (
        ("capacity", 422, "does not have discrete runs"),
        ("agent_runtime", 200, "No runs yet"),
    ):
        page = guest.get(runs_path(edge.fresh(model)))
        assert (page.status, text in page.text) == (status, True)


@pytest.mark.parametrize("number", [0, 1])
def test_the_files_of_runs_and_of_lines_are_those_of_the_api(edge: Edge, number: int) -> None:
    line = edge.fresh()
    edge.accept(*(fact("run.started", None, {"service_line_id": line}) for _ in range(3)))
    token = edge.token("read")
    guest = Visitor(edge, token)
    pages = ("/ui/runs?status=running&service_line_id=" + line, f"/ui/lines/{line}/runs")
    links = [str(guest.get(page).all("#downloads a")[number]["href"]) for page in pages]
    links.append(f"/ui/export?format={('csv', 'jsonl')[number]}&sort=state_since")
    for link in links:
        address = urlsplit(link)
        path = {"/ui/runs/export": "/v1/runs/export", "/ui/export": "/v1/execution/export"}
        answer = guest.get(link).answer
        expected = edge.get(f"{path[address.path]}?{address.query}", token)
        assert (answer.status_code, answer.content) == (200, expected.content)
        assert answer.content.count(b"\n") >= 2
        assert answer.headers["content-disposition"] == expected.headers["content-disposition"]
        assert answer.headers["cache-control"] == "no-store", "as every page"
    assert len(guest.get(links[1]).answer.content.splitlines()) == (4, 3)[number]


def test_an_administrator_sees_whose_runs_they_are_and_those_of_one_organization(
    edge: Edge,
) -> None:
    other, line, own = "ORG-26-000790", edge.fresh_id(), edge.fresh()
    token = edge.token("read", "write", organization_id=other)
    edge.accept(activation(line, organization_id=other), token=token)
    for each, key in ((line, token), (own, None)):
        edge.accept(fact("run.started", None, {"service_line_id": each}), token=key)
    admin = visitor(edge, "admin", organization_id=None)
    rows = admin.get("/ui/runs").words("tbody tr")
    assert [other in row for row in rows[:2]] == [False, True]
    one = admin.get(f"/ui/runs?organization_id={other}")
    assert len(one.all("tbody tr")) == 1
    assert one.words(".total") == ["1 run"]
    assert other in one.words(".chosen")[0]
    exported = admin.get(f"/ui/runs/export?organization_id={other}").answer.text
    assert len(exported.splitlines()) == 1
    # Of the own organization all may ask; of another nobody but administrators finds anything.
    for organization, rows in ((ORGANIZATION, 1), (other, 0)):
        page = visitor(edge, organization_id=ORGANIZATION).get(
            f"/ui/runs?organization_id={organization}&service_line_id={own}"
        )
        assert len(page.all("tbody tr")) == rows
    stranger = visitor(edge, organization_id="ORG-26-000791")
    assert stranger.get(f"/ui/runs?organization_id={other}").all("tbody tr") == []
    assert stranger.get(f"/ui/runs/export?organization_id={other}").answer.text == ""


def test_a_run_shows_its_waiting_time_duration_and_trigger(edge: Edge) -> None:
    line_id = edge.fresh()
    wanted = {"triggered_by": {"type": "user", "actor_id": "USR-26-000007"}, "input": {"a": ["ü"]}}
    begun, outcome = {"service_line_id": line_id}, {"output": [1], "tokens_used": 1234}
    run = new_id("RUN")
    edge.accept(
        fact("run.requested", run, begun | wanted, time="2026-04-01T10:00:00Z"),
        fact("run.started", run, begun, time="2026-04-01T10:00:30Z"),
        fact("run.completed", run, outcome, time="2026-04-01T10:02:00Z"),
    )
    page = visitor(edge).get(f"/ui/runs/{run}")
    (facts,) = page.words(".facts")
    for words in (
        "Waiting time 30 s",
        "Duration 1 min 30 s",
        "USR-26-000007 user",
        "Tokens 1,234",
    ):
        assert words in facts
    assert page.words(".standing .state") == ["completed"]
    inside, outside = (pre.get_text() for pre in page.all("pre"))
    assert inside == '{\n  "a": [\n    "ü"\n  ]\n}'
    assert outside == "[\n  1\n]"
    assert page.words(".happened .kind") == ["run.requested", "run.started", "run.completed"]
    assert page.one(f'.facts a[href="/ui/lines/{line_id}"]')
    assert "data-stream" not in page.one("#view").attrs


def test_a_run_that_its_lease_failed_says_so_in_words(edge: Edge) -> None:
    run = run_of(edge, edge.fresh(), "started", lease_seconds=90)
    (facts,) = visitor(edge).get(f"/ui/runs/{run}").words(".facts")
    assert "Lease 1 min 30 s without a sign of life, then the run fails" in facts
    with closing(Log(edge.conninfo)) as log:
        listen(log, edge.clock)
        listen(log, edge.clock, 91)
    until(lambda: edge.data(f"/v1/runs/{run}")["status"] == "failed", "the expiry")
    page = visitor(edge).get(f"/ui/runs/{run}")
    assert page.words(".card.failed") == [
        "Lease ended lease_expired Nothing arrived from the run for as long as its lease."
    ]
    assert "because its lease ended" in page.words(".happened")[-1]
    error = {"code": "E7", "message": "<No> disk"}
    other = run_of(edge, edge.fresh(), "started", "failed", error=error)
    page = visitor(edge).get(f"/ui/runs/{other}")
    assert page.words(".failed") == ["Error E7 <No> disk"]
    assert "No input reported." in page.text
    unknown = visitor(edge).get("/ui/runs/nonsense")
    assert (unknown.status, "No such run." in unknown.text) == (404, True)


def test_a_run_shows_its_external_id_and_links_its_parent(edge: Edge) -> None:
    line_id, name = edge.fresh(), "build <7> \u05d0"
    parent = run_of(edge, line_id, "started")
    run = run_of(edge, line_id, "started", external_id=name, parent_run_id=parent)
    page = visitor(edge).get(f"/ui/runs/{run}")
    (facts,) = page.words(".facts")
    assert f"External ID {name} Attempt 1 Parent run {parent}" in facts
    assert page.one(f'.facts a[href="/ui/runs/{parent}"]')
    assert "External ID" not in visitor(edge).get(f"/ui/runs/{parent}").words(".facts")[0]


def test_an_open_run_is_followed_and_shown_as_it_was(edge: Edge) -> None:
    line_id = edge.fresh()
    edge.clock.advance(seconds=10)
    before = edge.clock.now
    edge.clock.advance(seconds=10)
    run = run_of(edge, line_id, "requested")
    then = edge.clock.now
    edge.clock.advance(seconds=10)
    edge.accept(fact("run.started", run, {"service_line_id": line_id}))
    guest = visitor(edge)
    view = guest.get(f"/ui/runs/{run}").one("#view")
    assert view["data-stream"] == f"/ui/stream?service_line_id={line_id}"
    assert "so far" in view.get_text()

    def at(instant: Any) -> Visited:
        return guest.get(f"/ui/runs/{run}?as_of={instant:%Y-%m-%dT%H:%M:%S.%fZ}")

    page = at(then)
    assert page.words(".standing .state") == ["pending"]
    assert page.words(".happened .kind") == ["run.requested"]
    assert "data-stream" not in page.one("#view").attrs
    early = at(before)
    assert early.status == 404
    assert "was not known yet at that time" in early.text


def test_a_run_shows_its_children_of_all_lines_as_they_were(edge: Edge) -> None:
    line_id, other = edge.fresh(), edge.fresh(name="Reviewer")
    parent = run_of(edge, line_id, "started")
    child = run_of(edge, other, "started", parent_run_id=parent)
    then = edge.clock.now
    edge.clock.advance(seconds=10)
    later = run_of(edge, line_id, "started", parent_run_id=parent)
    edge.accept(fact("run.failed", later, {"error": {"code": "E7"}}))
    guest = visitor(edge)
    page = guest.get(f"/ui/runs/{parent}")
    assert page.words("#h-children") == ["Child runs"]
    assert listed(page) == [later, child]
    assert "of Reviewer" in page.words(f"#{child} th")[0]
    assert "E7" in page.words(f"#{later} .error")[0]
    past = guest.get(f"/ui/runs/{parent}?as_of={then:%Y-%m-%dT%H:%M:%S.%fZ}")
    assert listed(past) == [child]
    assert guest.get(f"/ui/runs/{child}").all("#h-children") == []


def test_many_children_are_reached_by_a_link(edge: Edge) -> None:
    line_id = edge.fresh()
    parent = run_of(edge, line_id, "started")
    begun = {"service_line_id": line_id, "parent_run_id": parent}
    edge.accept(*(fact("run.started", new_id("RUN"), begun) for _ in range(26)))
    guest = visitor(edge)
    page = guest.get(f"/ui/runs/{parent}")
    assert len(listed(page)) == 25
    all_of_them = page.one("#h-children ~ .more a")["href"]
    assert all_of_them == f"/ui/runs?parent_run_id={parent}"
    assert len(listed(guest.get(str(all_of_them)))) == 26


def test_an_erased_run_says_so_and_shows_nothing_of_it(edge: Edge) -> None:
    line_id, secret = edge.fresh(), "hidden-word"
    run = run_of(edge, line_id, "started", "failed", output=secret, error={"code": secret})
    then = edge.clock.now
    edge.clock.advance(days=1)
    guest = visitor(edge, "read", "audit:read", "runs:erase")
    assert secret in guest.get(f"/ui/runs/{run}").text
    answer = edge.post(f"/v1/runs/{run}/erase", json={"reason": "Asked <for>"})
    assert answer.status_code == 200
    for path in (f"/ui/runs/{run}", f"/ui/runs/{run}?as_of={then:%Y-%m-%dT%H:%M:%S.%fZ}"):
        page = guest.get(path)
        (text,) = page.words(".erased")
        assert text.startswith("Input, output and error were erased on ")
        assert page.words("section[aria-labelledby=h-input] .quiet") == ["Erased."]
        assert page.words("section[aria-labelledby=h-output] .quiet") == ["Erased."]
        assert page.all("pre") == page.all(".failed") == []
        assert secret not in page.text
        # The page of an erased run offers no form.
        assert page.all("main form") == []
    page = guest.get(f"/ui/runs/{run}")
    assert page.words(".happened .kind")[-1] == "run.erased"
    assert page.words(".happened .said")[-1] == "Asked <for>"
    (row,) = guest.get(runs_path(line_id)).all(".run-rows tbody tr")
    assert "erased" in row.get_text()
    audit = guest.get("/ui/audit")
    about = audit.words("tr .about")[0]
    assert about.startswith(run)
    assert about.endswith("Asked <for>")
    assert "run.erased" in guest.get("/ui/events").words(".log .name")
