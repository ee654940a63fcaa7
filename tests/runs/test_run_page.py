"""The page of a run."""

from contextlib import closing
from typing import Any

from ledger.engine.log.event_log import Log
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.leases import listen
from tests.support.ledger import new_id
from tests.support.run_pages import listed, run_of, runs_path
from tests.support.views import until
from tests.support.visitor import Seen, visitor

OTHER = "ORG-26-000002"


def test_a_run_shows_its_waiting_time_duration_and_trigger(edge: Edge) -> None:
    line_id = edge.fresh()
    asked = {"triggered_by": {"type": "user", "actor_id": "USR-26-000007"}, "input": {"a": ["ü"]}}
    begun, outcome = {"service_line_id": line_id}, {"output": [1], "tokens_used": 1234}
    run = new_id("RUN")
    edge.accept(
        fact("run.requested", run, begun | asked, time="2026-04-01T10:00:00Z"),
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
    assert "Lease 1 min 30 s without a sign of life, and it fails" in facts
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

    def at(instant: Any) -> Seen:
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
        (said,) = page.words(".erased")
        assert said.startswith("Input, output and error were erased on ")
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
