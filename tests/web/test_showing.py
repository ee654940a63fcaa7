"""How numbers and durations are written, and what an event says in one line."""

import pytest

from ledger.web.showing import number
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.visitor import visitor


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "—"),
        (0, "0"),
        (4.0, "4"),
        (0.004, "0.004"),
        (0.9975, "0.9975"),
        (37.125, "37.125"),
        (-1234567.5, "-1,234,567.5"),
        (1_234_567, "1,234,567"),
        (10**20, "100,000,000,000,000,000,000"),
        (1e300, "1e+300"),
        (1e-7, "1e-07"),
    ],
)
def test_a_number_is_written_as_json_has_it_with_its_thousands_apart(
    value: float | None, written: str
) -> None:
    assert number(value) == written


def test_a_signal_near_nothing_does_not_say_nothing(edge: Edge) -> None:
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
