"""The board: lines that need a human first, filters in addresses, pages, and the past."""

from typing import Any

from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.visitor import Seen, Visitor, visitor


def blocked(line_id: str, cause: str, reason: str | None = None, blocker: str = "B-1") -> Any:
    data = {"blocker_id": blocker, "cause": cause} | ({"reason": reason} if reason else {})
    return fact("execution.blocked", line_id, data)


def groups(page: Seen) -> list[tuple[str, list[str]]]:
    """(state, lines in their order) of each group."""
    return [
        (
            section.select_one("h2 .state").get_text(),
            [str(row["id"]) for row in section.select("tbody tr")],
        )
        for section in page.all("section.group")
    ]


def lines(page: Seen) -> list[str]:
    return [line for _, ids in groups(page) for line in ids]


def walk(guest: Visitor, path: str) -> list[Seen]:
    """The pages from this address on."""
    pages = [guest.get(path)]
    while following := pages[-1].all('a[rel="next"]'):
        pages.append(guest.get(str(following[0]["href"])))
        assert len(pages) < 100
    return pages


class Workspace:
    """A workspace of one test, so that tests do not see each other's lines."""

    def __init__(self, edge: Edge, name: str) -> None:
        self.edge, self.path = edge, f"/ui?workspace_id={name}"
        self._name = name

    def line(self, model: str = "agent_runtime", **more: Any) -> str:
        return self.edge.fresh(model, workspace_id=self._name, **more)


def test_blocked_lines_come_first_then_paused_ones_then_the_rest(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000101")
    running, paused, stuck, closed, both = (at.line() for _ in range(5))
    edge.accept(
        fact("service_line.closed", closed),
        blocked(stuck, "approval_gap"),
        blocked(both, "policy_violation"),
        fact("service_line.paused", paused),
        fact("service_line.paused", both),
    )
    page = visitor(edge).get(at.path)
    assert groups(page) == [
        ("blocked", [stuck]),
        ("paused", [paused, both]),
        ("running", [running]),
        ("closed", [closed]),
    ]


def test_a_blocked_line_shows_causes_reasons_start_and_duration(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000102")
    line_id = at.line()
    edge.accept(
        blocked(line_id, "approval_gap", "Waiting for the sign-off"),
        blocked(line_id, "capacity_issue", None, "B-2"),
    )
    edge.clock.advance(hours=26, minutes=1)
    row = visitor(edge).get(at.path).words(f"#{line_id}")[0]
    assert "approval gap Waiting for the sign-off" in row
    assert "capacity issue no reason given" in row
    assert "2026-04-" in row
    assert "1 d 2 h" in row


def test_a_paused_line_shows_the_actor_and_reason_of_its_hold(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000103")
    line_id = at.line()
    path = f"/v1/execution/{line_id}/pause"
    token = edge.token("service_lines:manage", "read")
    assert edge.post(path, token, json={"reason": "Stakeholder review"}).status_code == 200
    row = visitor(edge).get(at.path).words(f"#{line_id}")[0]
    assert "operator Stakeholder review" in row
    assert "KEY-26-" in row


def test_a_pause_does_not_make_an_old_blocker_young(edge: Edge) -> None:
    """The duration of a state starts again with every change; the age of a blocker does not."""
    at = Workspace(edge, "WS-26-000111")
    line_id, token = at.line(), edge.token("service_lines:manage", "read")
    edge.accept(blocked(line_id, "approval_gap", "Waiting for the sign-off"))
    edge.clock.advance(hours=26, minutes=1)
    for act in ("pause", "resume"):
        path = f"/v1/execution/{line_id}/{act}"
        assert edge.post(path, token, json={"reason": "A mistake"}).status_code == 200
    row = visitor(edge).get(at.path).words(f"#{line_id}")[0]
    assert "Waiting for the sign-off for 1 d 2 h" in row


def test_counts_by_state_and_cause_lead_to_the_counted_lines(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000104")
    one, other, _ = (at.line() for _ in range(3))
    edge.accept(blocked(one, "approval_gap"), blocked(other, "capacity_issue"))
    edge.accept(blocked(other, "approval_gap", None, "B-2"))
    guest = visitor(edge)
    for path in (at.path, f"{at.path}&state=running"):
        page = guest.get(path)
        assert page.words(".tile")[:-1] == [
            "2 blocked", "0 paused", "1 running", "0 idle", "0 closed",
        ]  # fmt: skip
        assert page.words(".causes .chip") == [
            "approval gap 2", "capacity issue 1", "policy violation 0", "delivery blocker 0",
        ]  # fmt: skip
    tile, cause = page.all(".tile")[0], page.all(".causes .chip")[1]
    assert sorted(lines(guest.get(str(tile["href"])))) == sorted([one, other])
    assert lines(guest.get(str(cause["href"]))) == [other]


def test_every_filter_of_the_api_is_an_address_and_stays_in_the_form(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000105")
    line_id = at.line("capacity", product_line="talent", project_tags=["PROJ-1"])
    at.line("agent_runtime")
    edge.accept(blocked(line_id, "delivery_blocker"))
    guest = visitor(edge)
    for chosen in (
        {"execution_model": "capacity"},
        {"product_line": "talent,ods"},
        {"project_tag": "PROJ-1"},
        {"blocked_cause": "delivery_blocker"},
        {"state": "blocked,paused"},
    ):
        ((name, value),) = chosen.items()
        page = guest.get(f"{at.path}&{name}={value}")
        assert lines(page) == [line_id], chosen
        assert page.form("/ui")[name] == value


def test_empty_fields_do_not_stay_in_the_address(edge: Edge) -> None:
    guest = visitor(edge)
    answer = guest.get("/ui?state=blocked&blocked_cause=&workspace_id=&limit=")
    assert (answer.status, answer.location) == (303, "/ui?state=blocked")
    assert guest.get("/ui?state=&limit=").location == "/ui"


def test_a_walk_shows_every_line_once_in_the_boards_order(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000106")
    all_lines = [at.line() for _ in range(9)]
    edge.accept(*(blocked(line_id, "approval_gap") for line_id in all_lines[:4]))
    edge.accept(*(fact("service_line.paused", line_id) for line_id in all_lines[4:6]))
    guest = visitor(edge)
    for limit in (1, 2, 3, 4, 6, 9, 1000):
        pages = walk(guest, f"{at.path}&limit={limit}")
        assert len(pages) == -(-9 // limit)
        found = [line for page in pages for line in lines(page)]
        assert found == all_lines, "in each state, the longest in it comes first"
        # The links to the page before lead back the same way.
        back = [pages[-1]]
        while len(back) < len(pages):
            (link,) = back[-1].all('a[rel="prev"]')
            back.append(guest.get(str(link["href"])))
        assert [lines(page) for page in back[::-1]] == [lines(page) for page in pages]
        assert [page.words(".about p")[0] for page in back[::-1]] == [
            page.words(".about p")[0] for page in pages
        ]


def test_each_page_says_where_it_is_in_the_list_and_in_its_states(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000114")
    all_lines = [at.line() for _ in range(9)]
    edge.accept(*(blocked(line_id, "approval_gap") for line_id in all_lines[:4]))
    pages = walk(visitor(edge), f"{at.path}&limit=3")
    assert [page.words(".about p")[0] for page in pages] == [
        "1–3 of 9 lines", "4–6 of 9 lines", "7–9 of 9 lines",
    ]  # fmt: skip
    assert [page.words("section.group h2") for page in pages] == [
        ["blocked 1–3 of 4"], ["blocked 4 of 4", "running 1–2 of 5"], ["running 3–5 of 5"],
    ]  # fmt: skip
    (only,) = walk(visitor(edge), f"{at.path}&state=blocked&limit=1000")
    assert only.words("section.group h2") == ["blocked 4"]
    assert only.all('a[rel="next"]') == only.all('a[rel="prev"]') == []


def test_a_page_before_the_first_lines_leads_to_the_first_page(edge: Edge) -> None:
    """Lines leave while a person reads, so fewer lines than a page may be left before it."""
    at = Workspace(edge, "WS-26-000115")
    all_lines = [at.line() for _ in range(6)]
    guest = visitor(edge)
    third = walk(guest, f"{at.path}&limit=2")[2]
    (link,) = third.all('a[rel="prev"]')
    edge.accept(fact("service_line.paused", all_lines[0]))
    assert lines(guest.get(str(link["href"]))) == all_lines[2:4]
    edge.accept(*(fact("service_line.closed", line_id) for line_id in all_lines[1:3]))
    answer = guest.get(str(link["href"]))
    assert (answer.status, answer.location) == (303, f"{at.path}&limit=2")


def test_the_order_is_chosen_and_stays_with_filters_and_pages(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000116")
    old, sick, new = (at.line() for _ in range(3))
    edge.accept(
        fact("health.signal_reported", sick, {"signal": "sla_compliance", "status": "red"}),
        fact("health.signal_reported", old, {"signal": "sla_compliance", "status": "green"}),
    )
    guest = visitor(edge)
    page = guest.get(at.path)
    assert page.words(".orders [aria-current]") == ["time in state"]
    expected = {
        "time in state": [old, sick, new],
        "health": [sick, old, new],
        "newest record": [new, sick, old],
    }
    for link in page.all(".orders a"):
        chosen = guest.get(str(link["href"]) + "&limit=2")
        said = link.get_text()
        assert chosen.words(".orders [aria-current]") == [said]
        assert [line for each in walk(guest, str(link["href"]) + "&limit=2")
                for line in lines(each)] == expected[said]  # fmt: skip
    running = guest.get(f"{at.path}&sort=health_score").all(".tile.s-running")[0]
    assert "sort=health_score" in str(running["href"])
    assert guest.get(f"{at.path}&sort=health_score").form("/ui")["sort"] == "health_score"
    assert guest.get(f"{at.path}&sort=name").status == 422


def test_each_filter_that_is_on_is_a_chip_that_takes_it_off(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000117")
    line_id = at.line("capacity", product_line="talent", project_tags=["PROJ-7"],
                      resources=[{"id": "SCR-7", "type": "person"}])  # fmt: skip
    edge.accept(blocked(line_id, "delivery_blocker"))
    guest = visitor(edge)
    query = (
        "&state=blocked,paused&health=none&project_tag=PROJ-7&resource_id=SCR-7"
        "&product_line=talent&execution_model=capacity&blocked_cause=delivery_blocker"
    )
    page = guest.get(at.path + query)
    assert lines(page) == [line_id]
    chips = [word.removesuffix(" , remove") for word in page.words(".chosen .chip")]
    assert chips == [
        "State blocked ✕", "State paused ✕", "Cause delivery blocker ✕", "Health no signals ✕",
        "Product line talent ✕", "Model capacity ✕", "Workspace WS-26-000117 ✕",
        "Project PROJ-7 ✕", "Resource SCR-7 ✕",
    ]  # fmt: skip
    links = page.all(".chosen .chip")
    assert len({str(link["href"]) for link in links}) == 9
    for link in links:
        assert len(guest.get(str(link["href"])).all(".chosen .chip")) == 8
    assert page.words(".chosen li")[-1] == "Clear all"
    assert page.all(".chosen li a")[-1]["href"] == "/ui"
    assert page.words(".tool summary .chip") == ["9"]


def test_all_means_all_lines_whatever_filters_are_on(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000118")
    at.line()
    guest = visitor(edge)
    every = guest.get("/ui").words(".tile")[-1]
    page = guest.get(f"{at.path}&state=running&sort=health_score")
    assert page.words(".tile")[-1] == every
    assert page.all(".tile")[-1]["href"] == "/ui?sort=health_score"
    assert int(every.split()[0].replace(",", "")) > 1


def test_the_title_says_which_lines_are_shown(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000119")
    at.line()
    guest = visitor(edge)
    for query, title in (
        ("/ui", "All lines"),
        ("/ui?state=blocked", "Blocked lines"),
        ("/ui?state=blocked,paused", "Blocked and paused lines"),
        ("/ui?health=red,none", "Lines, health red or no signals"),
        (f"{at.path}&state=running", "Running lines, workspace WS-26-000119"),
    ):
        page = guest.get(query)
        assert page.words("h1") == [title]
        begin = "" if query == "/ui" else f"{title} · "
        assert page.words("title") == [f"{begin}Board · Execution ledger"]


def test_counts_follow_every_filter(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000120")
    sick, other, _ = (at.line() for _ in range(3))
    for line_id in (sick, other):
        signal = {"signal": "sla_compliance", "status": "red"}
        edge.accept(fact("health.signal_reported", line_id, signal))
    edge.accept(
        blocked(sick, "approval_gap"),
        fact("resource.allocated", sick, {"id": "SCR-120", "type": "person"}),
    )
    guest = visitor(edge)
    for query, tiles, cause in (
        ("", [1, 0, 2, 0, 0], 1),
        ("&health=amber", [1, 0, 1, 0, 0], 1),
        ("&health=none", [0, 0, 1, 0, 0], 0),
        ("&resource_id=SCR-120", [1, 0, 0, 0, 0], 1),
    ):
        page = guest.get(at.path + query)
        assert [int(tile.split()[0]) for tile in page.words(".tile")[:-1]] == tiles
        assert page.words(".causes .chip")[0] == f"approval gap {cause}"
        assert page.words(".about p")[0].endswith(f"of {sum(tiles)} line{'s' * (sum(tiles) > 1)}")


def test_a_past_board_keeps_the_records_order_and_says_so(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000121")
    first, second = at.line(), at.line()
    edge.clock.advance(minutes=5)
    instant = edge.clock.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    edge.clock.advance(minutes=5)
    guest = visitor(edge)
    assert lines(guest.get(at.path)) == [first, second]
    then = guest.get(f"{at.path}&sort=health_score&as_of={instant}&limit=1")
    assert lines(then) == [second]
    assert then.all(".orders") == []
    assert "the past is not sorted" in then.words(".about")[0]
    assert [line for page in walk(guest, f"{at.path}&as_of={instant}&limit=1")
            for line in lines(page)] == [second, first]  # fmt: skip
    assert then.one(".past a")["href"] == f"{at.path}&sort=health_score&limit=1"


def test_a_past_board_says_which_filters_do_not_apply(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000122")
    line_id = at.line()
    edge.clock.advance(minutes=5)
    guest = visitor(edge)
    instant = edge.clock.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    edge.clock.advance(minutes=5)
    then = guest.get(f"{at.path}&health=red&as_of={instant}")
    assert lines(then) == [line_id]
    (chip,) = then.words(".chosen .chip.unused")
    assert chip.startswith("Health red (not applied: known of now only)")
    assert then.words("h1") == ["Lines, workspace WS-26-000122"]


def test_a_cursor_for_other_filters_is_refused_in_words(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000107")
    at.line(), at.line()
    guest = visitor(edge)
    (following,) = guest.get(f"{at.path}&limit=1").all('a[rel="next"]')
    for address in (
        str(following["href"]).replace("000107", "000106"),
        str(following["href"]).replace("000107", "000199"),  # where there is no line at all
        str(following["href"]) + "&state=blocked",
    ):
        answer = guest.get(address)
        assert answer.status == 400
        assert answer.one("h1").get_text() == "Invalid cursor"
    assert guest.get(f"{at.path}&cursor=nonsense").status == 422


def test_beyond_the_last_line_the_page_says_that_the_list_has_ended(edge: Edge) -> None:
    """Lines change state while a person reads, so an old cursor may be at the end of the list."""
    at = Workspace(edge, "WS-26-000112")
    at.line(), at.line()
    guest = visitor(edge)
    page = guest.get(f"{at.path}&cursor=closed~")
    assert page.words(".empty h2") == ["No more lines"]
    # The links to another instant lead to the first page of its list.
    for link in page.all(".tool li a"):
        assert "cursor" not in str(link["href"])


def test_a_line_with_very_many_blockers_has_a_short_row(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000113")
    line_id = at.line()
    edge.accept(
        *(blocked(line_id, "approval_gap", f"reason {n:02}", f"B-{n}") for n in range(1, 61))
    )
    guest = visitor(edge)
    row = guest.get(at.path).words(f"#{line_id}")[0]
    assert row.count("approval gap") == 4
    assert "reason 01" in row
    assert "and 56 more" in row
    page = guest.get(f"/ui/lines/{line_id}")
    assert "reason 50" in page.words(".why")[0]
    assert "and 10 more" in page.words(".why")[0]


def test_an_empty_result_is_said_and_does_not_look_like_an_error(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000108")
    at.line()
    guest = visitor(edge)
    fits = guest.get(f"{at.path}&state=closed")
    assert (fits.status, fits.words(".empty h2")) == (200, ["No lines match these filters"])
    assert fits.words(".empty p")[0] == "No match in 1 line."
    wrong = guest.get(f"{at.path}&state=nonsense")
    assert (wrong.status, wrong.all(".empty")) == (422, [])
    assert "State: is not a known value." in wrong.text


def test_the_board_of_an_instant_shows_that_instant_and_says_so(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000109")
    line_id = at.line()
    edge.clock.advance(hours=1)
    instant = edge.clock.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    edge.clock.advance(hours=1)
    edge.accept(blocked(line_id, "approval_gap"))
    guest = visitor(edge)
    assert groups(guest.get(at.path)) == [("blocked", [line_id])]
    then = guest.get(f"{at.path}&as_of={instant}")
    assert groups(then) == [("running", [line_id])]
    assert "You are looking at the past" in then.words(".past")[0]
    assert then.one(".past a")["href"] == at.path
    assert not then.all("[data-stream]")
    # Every link from here keeps that instant.
    for link in then.all("#view a"):
        assert "as_of=" in str(link["href"])
    assert then.words(".tool summary .chip") == ["1"], "the workspace: an instant is no filter"
    early = guest.get("/ui?as_of=2026-01-01")
    assert early.all(".tool summary .chip") == []
    assert early.words(".empty a") == []
    assert "at 2026-01-01 00:00:00 UTC" in guest.get("/ui?as_of=2026-01-01").words(".past")[0]
    future = guest.get("/ui?as_of=2999-01-01")
    assert (future.status, future.all(".past")) == (422, [])


def test_nobody_sees_another_organizations_lines(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000110")
    line_id = at.line()
    stranger = visitor(edge, organization_id="ORG-26-000777")
    page = stranger.get(at.path)
    assert lines(page) == []
    assert page.words(".tile")[-1] == "0 all"
    assert line_id not in page.answer.text


def test_a_token_without_the_right_to_read_is_refused_in_words(edge: Edge) -> None:
    answer = visitor(edge, "write").get("/ui")
    assert answer.status == 403
    assert "permission read" in answer.text


def test_pages_that_a_token_may_not_open_are_not_offered(edge: Edge) -> None:
    assert visitor(edge).get("/ui").words(".top nav a") == ["Board", "Runs", "Events"]
    everything = visitor(edge, "read", "audit:read", "webhooks:manage").get("/ui")
    assert everything.words(".top nav a") == ["Board", "Runs", "Events", "Audit", "Webhooks"]


def test_only_lines_whose_model_has_runs_show_a_number_of_open_runs(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000198")
    with_runs, without = at.line(), at.line("capacity")
    page = visitor(edge).get(at.path)
    shown = {line: page.words(f"#{line} [data-label='Open runs']") for line in (with_runs, without)}
    assert shown == {with_runs: ["0"], without: ["—"]}
