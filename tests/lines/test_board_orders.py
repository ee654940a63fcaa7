"""The board's orders and pages, now and of the past."""

from tests.support.boards import Workspace, blocked, groups, lines, pages_from
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.visitor import visitor


def test_pages_show_every_line_once_in_the_boards_order(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000106")
    all_lines = [at.line() for _ in range(9)]
    edge.accept(*(blocked(line_id, "approval_gap") for line_id in all_lines[:4]))
    edge.accept(*(fact("service_line.paused", line_id) for line_id in all_lines[4:6]))
    guest = visitor(edge)
    for limit in (1, 4, 9, 200):
        pages = pages_from(guest, f"{at.path}&limit={limit}")
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
    # Each page says where it is in the list and in its states.
    pages = pages_from(guest, f"{at.path}&limit=3")
    assert [page.words(".about p")[0] for page in pages] == [
        "1–3 of 9 lines", "4–6 of 9 lines", "7–9 of 9 lines",
    ]  # fmt: skip
    assert [page.words("section.group h2") for page in pages] == [
        ["blocked 1–3 of 4"], ["blocked 4 of 4", "paused 2"], ["running 3"],
    ]  # fmt: skip
    (only,) = pages_from(guest, f"{at.path}&state=blocked&limit=200")
    assert only.words("section.group h2") == ["blocked 4"]
    assert only.all('a[rel="next"]') == only.all('a[rel="prev"]') == []


def test_a_page_before_the_first_lines_leads_to_the_first_page(edge: Edge) -> None:
    """Lines leave while a person reads, so fewer lines than a page may be left before it."""
    at = Workspace(edge, "WS-26-000115")
    all_lines = [at.line() for _ in range(6)]
    guest = visitor(edge)
    third = pages_from(guest, f"{at.path}&limit=2")[2]
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
        "due time": [new, sick, old],
        "newest record": [new, sick, old],
    }
    for link in page.all(".orders a"):
        chosen = guest.get(str(link["href"]) + "&limit=2")
        text = link.get_text()
        assert chosen.words(".orders [aria-current]") == [text]
        assert [line for each in pages_from(guest, str(link["href"]) + "&limit=2")
                for line in lines(each)] == expected[text]  # fmt: skip
    running = guest.get(f"{at.path}&sort=health_score").all(".tile.s-running")[0]
    assert "sort=health_score" in str(running["href"])
    assert guest.get(f"{at.path}&sort=health_score").form("/ui")["sort"] == "health_score"
    assert guest.get(f"{at.path}&sort=name").status == 422


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
    assert then.words(".orders a") == ["time in state", "health", "newest record"]
    assert then.one(".past a")["href"] == at.path
    assert not then.all("[data-stream]")
    # Every link from here keeps that instant.
    for link in then.all("#view a"):
        assert "as_of=" in str(link["href"])
    assert then.words(".tool summary .chip") == ["1"], "the workspace: an instant is no filter"
    # A filter of now alone does not apply, and the page says so.
    then = guest.get(f"{at.path}&resource_id=SCR-1&as_of={instant}")
    assert lines(then) == [line_id]
    (chip,) = then.words(".chosen .chip.unused")
    assert chip.startswith("Resource SCR-1 (not applied: works for the present only)")
    assert then.words("h1") == ["Lines, workspace WS-26-000109"]
    early = guest.get("/ui?as_of=2026-01-01")
    assert early.all(".tool summary .chip") == []
    assert early.words(".empty a") == []
    assert "as of 2026-01-01 00:00:00 UTC" in guest.get("/ui?as_of=2026-01-01").words(".past")[0]
    future = guest.get("/ui?as_of=2999-01-01")
    assert (future.status, future.all(".past")) == (422, [])
