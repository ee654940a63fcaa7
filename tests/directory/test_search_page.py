"""The search of the page, without script: an id leads to its page, other texts to results."""

import pytest

from tests.support.edge import Edge
from tests.support.facts import activation, fact
from tests.support.visitor import Visitor, visitor

WORKSPACE, PROJECT = "WS-26-000930", "PROJ-26-000930"


@pytest.fixture(scope="module")
def line(edge: Edge) -> str:
    """A line that is found with all that it bears."""
    edge.accept(
        fact("directory.named", WORKSPACE, {"name": "Payments <bank>"}),
        fact("directory.named", PROJECT, {"name": "Payments next"}),
    )
    crew = [{"type": "t", "id": "SCR-930000", "name": "Pay Person"}]
    tags = [PROJECT, "pay,ments"]
    named = {"name": "Payments core", "workspace_id": WORKSPACE, "project_tags": tags}
    line = edge.fresh("agent_runtime", **named, resources=crew)
    run = {"service_line_id": line, "external_id": "payrun"}
    blocker = {"blocker_id": "SCR-930001", "cause": "approval_gap", "reason": "Payments wait"}
    edge.accept(fact("run.started", "RUN-26-930001", run), fact("execution.blocked", line, blocker))
    return line


RESULTS = (
    "Payments core {line} · line",
    "pay,ments project · 1 line on the board",
    "Pay Person SCR-930000 · resource",
    "Payments <bank> WS-26-000930 · workspace · 1 line on the board",
    "Payments next PROJ-26-000930 · project · 1 line on the board",
    "Payments wait SCR-930001 · blocker of Payments core",
    "payrun RUN-26-930001 · run of Payments core",
)


@pytest.mark.parametrize("path", ["/ui/search", "/ui/search/results"])
def test_results_show_the_name_the_id_the_type_and_the_line(
    edge: Edge, line: str, path: str
) -> None:
    answer = visitor(edge).get(path, params={"q": "pay"})
    assert answer.status == 200
    texts = answer.words(".found li, [role=option]")
    assert texts == [result.format(line=line) for result in RESULTS]
    links = [tag["href"] for tag in answer.all(".found a, a[role=option]")]
    assert links == [
        f"/ui/lines/{line}",
        "/ui?resource_id=SCR-930000",
        "/ui?workspace_id=WS-26-000930",
        "/ui?project_tag=PROJ-26-000930",
        f"/ui/lines/{line}",
        "/ui/runs/RUN-26-930001",
    ]


def test_a_search_that_finds_nothing_says_so(edge: Edge) -> None:
    answer = visitor(edge).get("/ui/search?q=+Pangolins+<b>")
    assert answer.status == 200
    assert "Nothing found for “ Pangolins <b> ”." in answer.words(".empty p")
    assert answer.one(".top .search input")["value"] == "Pangolins <b>"
    answer = visitor(edge).get("/ui/search/results?q=pangolins")
    assert answer.words("[role=status]") == ["Nothing found for “ pangolins ”."]
    assert answer.one("[role=listbox]").has_attr("hidden")


@pytest.mark.parametrize("query", ["", "?q=", "?q=a"])
def test_a_search_without_a_usable_word_says_what_to_type(edge: Edge, query: str) -> None:
    for path in ("/ui/search", "/ui/search/results"):
        answer = visitor(edge).get(path + query)
        if answer.status == 303:
            answer = visitor(edge).get(answer.location)
        assert "Type two characters of a name, or a number." in answer.text


def test_a_search_stays_at_the_instant(edge: Edge, line: str) -> None:
    answer = visitor(edge).get("/ui/search?q=LIN-26-000001&as_of=2026-04-01")
    assert answer.location == "/ui/lines/LIN-26-000001?as_of=2026-04-01"
    answer = visitor(edge).get("/ui/search/results?q=payments+core&as_of=2026-04-01")
    assert answer.one("[role=option]")["href"] == f"/ui/lines/{line}?as_of=2026-04-01"


def test_a_credential_that_may_not_read_is_refused_and_has_no_palette(edge: Edge) -> None:
    auditor = visitor(edge, "audit:read")
    assert auditor.get("/ui/search?q=payments").status == 403
    assert auditor.get("/ui/search/results?q=payments").status == 403
    page = auditor.get("/ui/audit")
    assert page.all("#palette") == []
    assert "Search by name or ID" not in page.words("#shortcuts")[0]


def test_the_search_finds_the_people_by_whom_lines_are_waited_for(edge: Edge) -> None:
    tenant = {"organization_id": "ORG-26-000931"}
    token = edge.token("read", "write", **tenant)
    lines = [edge.fresh("capacity", token=token, **tenant) for _ in range(4)]
    people = ["amara.okafor@example.com", "amara.okafor@example.com", "Zoë Amaral", "amar,a"]
    for line, person in zip(lines, people, strict=True):
        blocker = {"blocker_id": "b", "cause": "approval_gap", "assignee": person}
        edge.accept(fact("execution.blocked", line, blocker), token=token)
    guest = Visitor(edge, token)
    for path in ("/ui/search", "/ui/search/results"):
        answer = guest.get(path, params={"q": "Amara"})
        assert answer.words(".found li, [role=option]") == [
            "amara.okafor@example.com person · all 2 lines on the board",
            "Zoë Amaral person · 1 line on the board",
        ]
        links = [str(tag["href"]) for tag in answer.all(".found a, a[role=option]")]
        assert links[0] == "/ui?assignee=amara.okafor%40example.com"
    assert (
        guest.get(links[0]).words(".lines tbody th a")
        == guest.get("/ui").words(".lines tbody th a")[:2]
    )
    assert "Nothing found" in visitor(edge).get("/ui/search?q=okafor").text, "another tenant's"
    edge.accept(fact("execution.unblocked", lines[2], {"blocker_id": "b"}), token=token)
    assert "Nothing found" in guest.get("/ui/search?q=zoe+amaral").text
    unlinked = guest.get("/ui/search?q=amar").words(".found li > span > .name")
    assert unlinked == ["amar,a"], "a comma means or"


def test_a_workspace_is_found_among_more_lines_of_its_name_than_are_shown(edge: Edge) -> None:
    tenant = {"organization_id": "ORG-26-000932", "workspace_id": "WS-26-000932"}
    token = edge.token("read", "write", organization_id=tenant["organization_id"])
    edge.accept(fact("directory.named", "WS-26-000932", {"name": "Zürich"}), token=token)
    edge.accept(
        *(activation(edge.fresh_id(), name=f"Zürich {n}", **tenant) for n in range(21)), token=token
    )
    results = Visitor(edge, token).get("/ui/search?q=zurich").words(".found li")
    assert len(results) == 20
    assert results[-1] == "Zürich WS-26-000932 · workspace · all 21 lines on the board"
