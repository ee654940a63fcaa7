"""The search by names and ids (contract, Reading)."""

import random
from typing import Any

import pytest

from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, WORKSPACE, activation, fact

OTHER_WORKSPACE, OTHER_ORGANIZATION = "WS-26-000777", "ORG-26-000777"

Result = tuple[str, str, str | None, str | None]


@pytest.fixture(scope="module")
def admin(edge: Edge) -> str:
    return edge.token("admin")


@pytest.fixture(scope="module")
def narrow(edge: Edge) -> str:
    tenant = {"organization_id": ORGANIZATION, "workspace_id": WORKSPACE}
    return edge.token("read", **tenant)


def search(edge: Edge, text: str, token: str | None = None) -> list[Result]:
    found = edge.data("/v1/search", token, params={"q": text})
    return [(f["type"], f["id"], f["name"], f["service_line_id"]) for f in found]


def ids(edge: Edge, text: str, token: str | None = None) -> list[str]:
    return [identifier for _, identifier, _, _ in search(edge, text, token)]


def named(edge: Edge, name: str | None, line: str | None = None, **more: Any) -> str:
    line = line or edge.fresh_id()
    edge.accept(activation(line, more.pop("model", "capacity"), name=name, **more))
    return line


def block(edge: Edge, line: str, blocker: str, reason: str | None = None) -> None:
    data = {"blocker_id": blocker, "cause": "approval_gap", "reason": reason}
    edge.accept(fact("execution.blocked", line, data))


# Words.


def test_a_word_begins_a_word_of_the_name(edge: Edge) -> None:
    line = named(edge, "Aardvark payments (Core)")
    for text in ("aardvark", "PAYM aard", "core aardvark", "co aardvark", "aardvark-payments"):
        assert search(edge, text) == [("line", line, "Aardvark payments (Core)", line)]
    for text in ("ardvark", "aardvark xylophone", "aardvarks", "aardvark ore", "core ayments"):
        assert search(edge, text) == []


def test_marks_case_and_forms_of_characters_do_not_matter(edge: Edge) -> None:
    line = named(edge, "Zürich ﬁnance STRASSE Ελλάδα")
    for text in ("ZURICH", "zu\u0308rich", "finance", "straße", "ελλαδα", "ＦＩＮ zür"):
        assert ids(edge, text) == [line], text


def test_words_of_one_character_are_left_out(edge: Edge) -> None:
    line = named(edge, "Quokka b")
    assert ids(edge, "quokka x") == ids(edge, "x, quokka") == [line]


def test_an_open_blocker_is_found_by_its_reason_and_leaves_with_its_end(edge: Edge) -> None:
    line, other = named(edge, "Wombat"), named(edge, "Wallaby")
    block(edge, line, "BLK-1", "Tamarin waits for legal")
    block(edge, line, "b", "Tamarin budget")
    block(edge, other, "tamarin-approval")
    legal = ("blocker", "BLK-1", "Tamarin waits for legal", line)
    budget = ("blocker", "b", "Tamarin budget", line)
    unsaid = ("blocker", "tamarin-approval", None, other)
    assert search(edge, "tamarin") == [unsaid, budget, legal]
    edge.accept(fact("execution.unblocked", line, {"blocker_id": "BLK-1"}))
    assert search(edge, "tamarin") == [unsaid, budget]
    block(edge, line, "BLK-2", "Tamarin again")
    edge.accept(fact("service_line.closed", other))
    assert search(edge, "tamarin") == [("blocker", "BLK-2", "Tamarin again", line), budget]


def test_a_long_reason_is_shown_and_found_by_its_first_characters(edge: Edge) -> None:
    line = named(edge, None)
    block(edge, line, "b", "capybara " + "x" * 5_000 + " unseen")
    ((_, _, name, _),) = search(edge, "capybara")
    assert name == "capybara " + "x" * 191
    assert ids(edge, "unseen") == []


def test_the_longest_names_and_ids_fit_into_an_index(edge: Edge) -> None:
    dice = random.Random(1)
    signs = [chr(number) for number in range(0x12000, 0x12300)]  # of four bytes each, all letters
    name, identifier = ("".join(dice.choices(signs, k=200)) for _ in range(2))
    crew = {"type": "t", "id": identifier, "name": name}
    line = named(edge, name, resources=[crew])
    assert search(edge, name) == [
        ("line", line, name, line),
        ("resource", identifier, name, None),
    ]
    expanding = named(edge, "ﷺ" * 200)
    assert ids(edge, "صلى الله عليه وسلم") == [expanding]


def test_a_resource_is_found_until_no_line_bears_it(edge: Edge) -> None:
    crew = {"type": "talent", "id": "SCR-820001", "name": "Åsa Pangolin"}
    first, second = named(edge, None, resources=[crew]), named(edge, None)
    edge.accept(fact("resource.allocated", second, crew | {"name": None}))
    found = [("resource", "SCR-820001", "Åsa Pangolin", None)]
    assert search(edge, "pang asa") == search(edge, "820001") == found
    edge.accept(fact("resource.released", first, {"id": "SCR-820001"}))
    assert search(edge, "pangolin") == found
    edge.accept(fact("resource.released", second, {"id": "SCR-820001"}))
    assert search(edge, "pangolin") == search(edge, "820001") == []


# Numbers.


def test_a_number_finds_every_id_that_has_it(edge: Edge) -> None:
    old, new = named(edge, "Ibis", "LIN-25-820405"), named(edge, None, "LIN-26-820405")
    with_runs = named(edge, None, model="agent_runtime", project_tags=["PROJ-26-820405"])
    run = {"service_line_id": with_runs, "external_id": "nightly ibis"}
    edge.accept(fact("run.started", "RUN-24-820405", run))
    block(edge, new, "SCR-820405", "Stuck")
    expected = [
        ("line", new, None, new),
        ("line", old, "Ibis", old),
        ("project", "PROJ-26-820405", None, None),
        ("run", "RUN-24-820405", "nightly ibis", with_runs),
        ("blocker", "SCR-820405", "Stuck", new),
    ]
    assert search(edge, "820405") == search(edge, "00820405") == search(edge, "#820405") == expected
    for text in ("lin-26-820405", "LIN-26-0820405", "(LIN-26-820405)"):
        assert ids(edge, text) == [new]
    for text in ("LIN-820405", "lin-0820405"):
        assert ids(edge, text) == [new, old]
    assert ids(edge, "25-820405") == [old]
    assert ids(edge, "scr-820405") == ["SCR-820405"]
    assert ids(edge, "run-26-820405") == ids(edge, "82040") == ids(edge, "8204051") == []


def test_a_run_is_found_by_its_whole_external_id(edge: Edge) -> None:
    line = named(edge, None, model="agent_runtime")
    run = {"service_line_id": line, "external_id": "Invoices 2026-11 #7"}
    edge.accept(fact("run.started", "RUN-26-840001", run))
    edge.accept(fact("run.started", "RUN-26-840002", run | {"external_id": "840002"}))
    found = [("run", "RUN-26-840001", "Invoices 2026-11 #7", line)]
    assert search(edge, " Invoices 2026-11 #7") == search(edge, "840001 invo") == found
    assert search(edge, "invoices 2026-11") == []
    assert ids(edge, "840002") == ["RUN-26-840002"]


def test_a_run_is_found_by_words_that_begin_words_of_its_external_id(edge: Edge) -> None:
    line = named(edge, "Ocelot", model="agent_runtime")
    run = {"service_line_id": line, "external_id": "Jaguarundi/Export-7b"}
    requested = run | {"external_id": None}
    edge.accept(fact("run.requested", "RUN-26-841001", requested))
    assert search(edge, "jaguarundi") == []
    edge.accept(
        fact("run.started", "RUN-26-841001", run),
        fact("run.completed", "RUN-26-841001", {}),
        fact("run.requested", "RUN-26-841002", run | {"external_id": "jaguarundi import"}),
        fact("run.started", "RUN-26-841002", run | {"external_id": "jaguarundi import"}),
    )
    first = ("run", "RUN-26-841001", "Jaguarundi/Export-7b", line)
    second = ("run", "RUN-26-841002", "jaguarundi import", line)
    assert search(edge, "JAGUAR") == [first, second]
    assert search(edge, "jag exp") == search(edge, "exp 7b jagu") == [first]
    assert search(edge, "jaguarundi/Export-7b") == [first]
    assert search(edge, "jaguarundi xport") == search(edge, "aguarundi") == []
    assert search(edge, "841001 exp") == [first]
    edge.accept(
        fact("run.started", "RUN-26-841003", run | {"external_id": "jaguarundi at once"}),
        fact("service_line.updated", line, {"name": "Jaguarundi line"}),
    )
    runs = ["RUN-26-841003", "RUN-26-841001", "RUN-26-841002"]
    assert ids(edge, "jaguarundi") == [line, *runs]


def test_numbers_too_long_for_any_id_find_nothing(edge: Edge) -> None:
    assert search(edge, "9" * 13) == search(edge, "LIN-26-" + "9" * 60) == []


# Order and limits.


def test_twenty_results_are_the_first_in_order_among_two_hundred_candidates(edge: Edge) -> None:
    words = {150: " inside", 220: " outside"}
    names = {number: f"Emu {number:03d}{words.get(number, '')}" for number in range(230)}
    edge.accept(
        *(
            activation(edge.fresh_id(), "capacity", name=names[number])
            for number in reversed(range(230))
        )
    )
    assert [name for _, _, name, _ in search(edge, "emu")] == [names[n] for n in range(20)]
    assert [name for _, _, name, _ in search(edge, "emu in")] == [names[150]]
    # The candidates come by the longest word, of equally long words by the first.
    assert search(edge, "emu out") == []
    assert [name for _, _, name, _ in search(edge, "outs emu")] == [names[220]]
    assert [name for _, _, name, _ in search(edge, "out emu")] == [names[220]]


# Tenants.


def test_a_workspace_finds_what_its_own_lines_bear_under_the_names_that_they_show(
    edge: Edge, narrow: str, admin: str
) -> None:
    for identifier in ("PROJ-26-860001", "PROJ-26-860002", WORKSPACE, OTHER_WORKSPACE):
        edge.accept(fact("directory.named", identifier, {"name": f"Lemur {identifier}"}))
    own = [{"type": "t", "id": "res-1", "name": "Lemur own"}]
    foreign = [{"type": "t", "id": "res-1", "name": "Lemur foreign"}]
    mine = named(edge, "Lemur", project_tags=["PROJ-26-860001"], resources=own)
    elsewhere = {"workspace_id": OTHER_WORKSPACE, "resources": foreign}
    theirs = named(edge, "Lemur", project_tags=["PROJ-26-860002"], **elsewhere)
    assert search(edge, "lemur", narrow) == [
        ("line", mine, "Lemur", mine),
        ("resource", "res-1", "Lemur own", None),
        ("project", "PROJ-26-860001", "Lemur PROJ-26-860001", None),
        ("workspace", WORKSPACE, f"Lemur {WORKSPACE}", None),
    ]
    for token in (None, admin):
        found = search(edge, "lemur", token)
        assert [f[1] for f in found if f[0] == "line"] == sorted([mine, theirs])
        assert ("resource", "res-1", "Lemur foreign", None) in found
        assert len(found) == 7
    assert ids(edge, "860002", narrow) == []
    edge.accept(fact("directory.named", "PROJ-26-860001", {"name": "Loris"}))
    assert ids(edge, "loris", narrow) == ["PROJ-26-860001"]


# Parameters.


@pytest.mark.parametrize(
    "query",
    [
        "", "?q=", "?q=+", "?q=a", "?q=a+%26+b", "?q=" + "x" * 201, "?q=pay&as_of=2026-04-01",
        "?q=pay&limit=5", "?q=pay&q=ments", "?q=%00pay",
    ],
)  # fmt: skip
def test_a_wrong_search_is_refused(edge: Edge, query: str) -> None:
    assert_problem(edge.get(f"/v1/search{query}"), 422, "invalid_request")


def test_an_answer_has_the_position_of_the_latest_name(edge: Edge) -> None:
    (item,) = edge.accept(activation(edge.fresh_id(), "capacity", name="Potoroo"))
    answer = edge.get("/v1/search?q=potoroo")
    assert int(answer.headers["ledger-position"]) == item["position"]


def test_a_check_in_or_a_run_without_a_name_writes_no_row(edge: Edge) -> None:
    line = named(edge, "Quoll", model="agent_runtime")
    before = edge.select("SELECT * FROM ledger.search_word ORDER BY owner, slot")
    edge.accept(
        fact("execution.checked_in", line, {"hours": 1}),
        fact("run.started", "RUN-26-870001", {"service_line_id": line}),
        fact("run.completed", "RUN-26-870001"),
        fact("service_line.paused", line),
    )
    assert edge.select("SELECT * FROM ledger.search_word ORDER BY owner, slot") == before
