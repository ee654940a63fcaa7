"""Issued ids, positions, recording instants and causation ids."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

import psycopg
import pytest

from ledger.engine.writer.group import windows_after
from tests.support.facts import activation, fact
from tests.support.ledger import Item, Ledger, new_id


def begin(line: str, subject: str | None = None) -> dict[str, object]:
    return fact("run.requested", subject, {"service_line_id": line})


def subjects(items: list[Item]) -> list[str | None]:
    return [item.subject for item in items]


def test_a_single_counter_issues_the_ids_of_records_and_runs(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    assert own_ledger.detail(line)["id"] == "RUN-26-000001"
    assert subjects(own_ledger.accept(begin(line), begin(line))) == [
        "RUN-26-000002",
        "RUN-26-000003",
    ]
    assert own_ledger.detail(own_ledger.line())["id"] == "RUN-26-000004"


@pytest.mark.parametrize("together", [True, False])
def test_used_ids_are_skipped_and_supplied_ids_never_move_the_counter(
    own_ledger: Ledger, together: bool
) -> None:
    line = own_ledger.line()
    far = activation(new_id("LIN"), execution_id="RUN-26-000005")
    sequence = [begin(line, f"RUN-26-00000{n}") for n in (2, 3, 9)]
    sequence += [far, begin(line), begin(line), begin(line, "RUN-26-900000"), begin(line)]
    items = own_ledger.report(*sequence) if together else own_ledger.accept(*sequence)
    assert subjects(items)[4:] == [
        "RUN-26-000004",
        "RUN-26-000006",
        "RUN-26-900000",
        "RUN-26-000007",
    ]


def test_a_refused_fact_uses_up_no_id(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    held = own_ledger.line(execution_id=new_id("RUN"))
    own_ledger.accept(fact("service_line.paused", held))
    refused = fact("run.started", None, {"service_line_id": held})
    items = own_ledger.report(refused, begin(line), refused, begin(line))
    assert subjects(items) == [None, "RUN-26-000002", None, "RUN-26-000003"]


def test_many_used_ids_in_a_row_are_skipped(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    own_ledger.report(*(begin(line, f"RUN-26-{n:06d}") for n in range(2, 120)))
    assert subjects(own_ledger.accept(begin(line))) == ["RUN-26-000120"]


def test_a_free_id_is_found_soon_behind_any_count_of_used_ids(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    used = [begin(line, f"RUN-26-{n:06d}") for n in range(2, 2_002)]
    for start in range(0, len(used), 1_000):
        own_ledger.report(*used[start : start + 1_000])
    first, second = subjects(own_ledger.accept(begin(line), begin(line)))
    assert "RUN-26-002001" < str(first) < str(second) < "RUN-26-010000"
    windows = list(islice(windows_after(1), 24))
    assert max(map(len, windows)) <= 256
    assert windows[-1].stop > 10**12, "the last number of a year that an id can have"


def test_the_ids_of_a_large_batch_follow_one_another(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    issued = subjects(own_ledger.report(*(begin(line) for _ in range(700))))
    assert issued == [f"RUN-26-{number:06d}" for number in range(2, 702)]


def test_used_ids_of_seven_digits_are_skipped(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    own_ledger.accept(*(begin(line, f"RUN-26-{number}") for number in (1_000_000, 1_000_002)))
    with psycopg.connect(own_ledger.conninfo) as other:
        other.execute("UPDATE ledger.id_counter SET last = 999998")
    items = own_ledger.accept(*(begin(line) for _ in range(3)))
    assert subjects(items) == ["RUN-26-999999", "RUN-26-1000001", "RUN-26-1000003"]


@pytest.mark.parametrize("counter", [0, 1, 999_999])
def test_the_windows_after_a_counter_adjoin_at_first_and_never_overlap(counter: int) -> None:
    windows = list(islice(windows_after(counter), 12))
    assert windows[0].start == counter + 1
    gaps = [after.start - before.stop for before, after in pairwise(windows)]
    assert gaps[:3] == [0, 0, 0]
    assert gaps[3:] == sorted(set(gaps[3:])), "each gap is larger than the gap before"


def test_each_utc_year_of_recording_has_a_counter_of_its_own(own_ledger: Ledger) -> None:
    own_ledger.clock.now = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
    line = own_ledger.line()
    own_ledger.clock.advance(seconds=1)
    late = begin(line) | {"time": "2026-12-31T12:00:00Z"}
    (item,) = own_ledger.accept(late)
    assert (item.subject, item.event_ids) == ("RUN-27-000001", ("EVT-27-000002",))


def test_the_year_may_end_between_a_wake_and_its_run(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    own_ledger.clock.now = datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    assert own_ledger.sweep() == 1
    (item,) = own_ledger.accept(begin(line) | {"time": own_ledger.at()})

    woken = own_ledger.events(line)[-1]
    assert woken["state"]["causation_id"] == item.event_ids[0]
    assert item.subject == "RUN-27-000001"
    own_ledger.clock.advance(seconds=1)
    assert own_ledger.accept(begin(line))[0].subject == "RUN-27-000002"


def test_positions_and_recording_instants_rise_even_if_the_clock_goes_back(
    own_ledger: Ledger,
) -> None:
    line = own_ledger.line()
    own_ledger.report(*(begin(line) for _ in range(50)))
    own_ledger.clock.advance(hours=-3)
    own_ledger.accept(begin(line), fact("execution.checked_in", line))
    own_ledger.accept(fact("service_line.closed", line))
    events = own_ledger.events()
    positions = [event["notification_id"] for event in events]
    instants = [event["recorded_at"] for event in events]
    assert positions == sorted(set(positions))
    assert instants == sorted(set(instants))
    stored = [datetime.fromisoformat(event["state"]["recorded_at"]) for event in events]
    assert stored == instants
    assert instants[-1] - instants[0] < timedelta(seconds=1)


def test_the_event_of_a_wake_comes_first_in_the_log_and_last_in_the_outcome(ledger: Ledger) -> None:
    line = ledger.line()
    assert ledger.sweep() >= 1
    (item,) = ledger.accept(begin(line) | {"actortype": "agent", "actorid": "A-1"})

    *_, woken, requested = ledger.events(line, str(item.subject))
    assert woken["topic"] == "execution.active/1"
    assert item.position == requested["notification_id"] == woken["notification_id"] + 1
    assert item.event_ids == tuple(
        f"EVT-26-{event['notification_id']:06d}" for event in (requested, woken)
    )
    assert woken["state"]["causation_id"] == item.event_ids[0]
    assert woken["state"]["actor"] == {"type": "agent", "id": "A-1"}
    assert "fact" not in woken["state"]


def test_a_void_names_the_event_of_the_check_in_that_it_voids(ledger: Ledger) -> None:
    line = ledger.line("capacity")
    check_ins = [fact("execution.checked_in", line, {"hours": n}) for n in range(3)]
    voids = [fact("execution.check_in_voided", line, {"fact_id": c["id"]}) for c in check_ins]
    # The check-in is in the same append, in an earlier append, or woke the line.
    *_, first = ledger.accept(check_ins[1], check_ins[0], voids[0])
    (second,) = ledger.accept(voids[1])
    ledger.clock.advance(days=2)
    assert ledger.sweep() >= 1
    ledger.accept(check_ins[2])
    (third,) = ledger.accept(voids[2])
    states = {f"EVT-26-{e['notification_id']:06d}": e["state"] for e in ledger.events(line)}
    causes = [states[item.event_ids[0]]["causation_id"] for item in (first, second, third)]
    assert [states[cause]["fact"]["id"] for cause in causes] == [c["id"] for c in check_ins]


def test_the_outcome_of_a_closing_names_only_the_event_of_the_line(ledger: Ledger) -> None:
    line = ledger.line()
    runs = [ledger.run(line, started=started) for started in (True, False, True)]
    before = ledger.head()
    (item,) = ledger.accept(fact("service_line.closed", line))
    *cancelled, closed = ledger.events(after=before)
    assert [e["originator_id"] for e in cancelled] == sorted(runs)
    assert {e["topic"] for e in cancelled} == {"run.cancelled/1"}
    assert item.event_ids == (f"EVT-26-{closed['notification_id']:06d}",)
    assert item.position == closed["notification_id"]
    assert {e["state"]["causation_id"] for e in cancelled} == set(item.event_ids)
