"""Numbers and durations as people read them, and the line about an event."""

import pytest

from ledger.engine.page.showing import duration, number, summary
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.visitor import visitor


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "—"), (0, "0"), (4.0, "4"), (0.004, "0.004"), (0.9975, "0.9975"), (37.125, "37.125"),
        (-1234567.5, "-1,234,567.5"), (1_234_567, "1,234,567"), (1e300, "1e+300"), (1e-7, "1e-07"),
        (10**20, "100,000,000,000,000,000,000"),
    ],
)  # fmt: skip
def test_a_number_keeps_its_digits_and_has_commas_between_thousands(
    value: float | None, written: str
) -> None:
    assert number(value) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0 s"), (0.0004, "0 ms"), (0.9994, "999 ms"), (0.9996, "1 s"), (59.94, "59.9 s"),
        (59.97, "1 min"), (60.97, "1 min"), (61, "1 min 1 s"), (3599.99, "59 min 59 s"),
        (90_000, "1 d 1 h"),
    ],
)  # fmt: skip
def test_a_duration_is_rounded_before_its_unit_is_chosen(seconds: float, written: str) -> None:
    assert duration(seconds) == written


def test_a_signal_near_zero_is_not_shown_as_zero(edge: Edge) -> None:
    line_id = edge.fresh()
    signals = {"agent_error_rate": 0.004, "sla_compliance": 0.9975}
    edge.accept(
        *(
            fact("health.signal_reported", line_id, {"signal": name, "status": "green", "value": v})
            for name, v in signals.items()
        )
    )
    page = visitor(edge).get(f"/ui/lines/{line_id}")
    assert sorted(page.words(".signals .value")) == ["0.004", "0.9975"]
    assert page.words(".sum") == ["All signals green"]


@pytest.mark.parametrize(
    ("payload", "texts"),
    [
        ({"hours": 0, "note": "Nothing came of it"}, ["Nothing came of it", "0 h"]),
        ({"tokens_used": 0, "duration_ms": 0}, ["took 0 s", "0 tokens"]),
        ({"late": False, "reason": "", "project_tags": [], "evidence": {}, "error": None}, []),
        ({"late": True}, ["replaces an earlier end"]),
    ],
)
def test_the_line_about_an_event_has_zeros_and_leaves_out_empty_values(
    payload: dict[str, object], texts: list[str]
) -> None:
    assert summary(payload) == texts


HEBREW = "בדיקה"


def test_text_from_right_to_left_does_not_reorder_its_neighbours(edge: Edge) -> None:
    line_id = edge.fresh("capacity")
    token = edge.token("read", "write", "service_lines:manage")
    resource = {"id": HEBREW + "-1", "type": "engineer", "name": HEBREW}
    hours = {"hours": 7.5, "note": HEBREW, "resource_id": resource["id"]}
    stuck = {"blocker_id": "B-1", "cause": "approval_gap", "reason": HEBREW}
    signal = {"signal": "sla_compliance", "status": "green", "evidence": HEBREW}
    edge.accept(
        fact("resource.allocated", line_id, resource),
        fact("execution.checked_in", line_id, hours, actortype="user", actorid=HEBREW + "-2"),
        fact("execution.blocked", line_id, stuck),
        fact("health.signal_reported", line_id, signal),
    )
    paused = edge.post(f"/v1/execution/{line_id}/pause", token, json={"reason": HEBREW})
    assert paused.status_code == 200
    guest = visitor(edge)
    page = guest.get(f"/ui/lines/{line_id}")
    assert [bdi.get_text() for bdi in page.all(".happened .said")[3].select("bdi")] == [
        HEBREW, "7.5 h", resource["id"],
    ]  # fmt: skip
    checked_in = page.all(".happened .said")[3]
    assert checked_in.get_text() == f"{HEBREW} · 7.5 h · {resource['id']}"
    (event_id,) = [row["id"] for row in page.all(".happened tr[id]") if "7.5 h" in row.get_text()]
    board, feed = guest.get("/ui?state=paused"), guest.get("/ui/events")
    for answer in (page, board, feed, guest.get(f"/ui/events/{event_id}")):
        torn = [text for text in answer.html.find_all(string=lambda text: HEBREW in text)
                if text.parent.name not in ("bdi", "pre", "title")]  # fmt: skip
        assert torn == []
