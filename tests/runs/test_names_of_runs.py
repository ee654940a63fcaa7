"""A name has attempts, and a run names a parent that may come later (contract, Facts)."""

import itertools
from typing import Any

import pytest

from ledger.app.composition.writing import create_writer
from ledger.engine.log.append import Append, Loaded, Wanted
from ledger.engine.log.event_log import Log
from ledger.engine.writer.request import Receipt
from ledger.features.facts import envelope
from ledger.features.facts.report import command_of
from ledger.features.runs.model.run import MAX_ABOVE
from ledger.features.runs.report_runs import MAX_AWAITING
from tests.support.decision_tables import assert_decision_tables_match_log
from tests.support.facts import encode, fact
from tests.support.ledger import ADMIN, NARROW, STRANGER, Ledger, new_id
from tests.support.log_checker import check
from tests.support.soak import repeated

GONE = (404, "not_found")
STATE = (409, "invalid_state")
ID_TAKEN = (409, "id_taken")
INVALID = (422, "invalid_request")
BEGUN = ["run.requested", "run.started"]


def named(type: str, name: str, line: str | None = None, **data: Any) -> dict[str, Any]:
    """A fact about the run of this name, from one source."""
    where = {"service_line_id": line} if line is not None else {}
    return fact(type, None, {"external_id": name} | where | data)


def begin(name: str, line: str, parent: str | None = None, **data: Any) -> dict[str, Any]:
    more = {"parent_external_id": parent} if parent is not None else {}
    return named("run.started", name, line, **more, **data)


def in_workspace(ledger: Ledger, workspace: str | None) -> str:
    assert workspace is not None
    line = new_id("LIN")
    return ledger.line(line=line, workspace_id=workspace)


def parents(ledger: Ledger, runs: list[str | None]) -> list[Any]:
    return [ledger.run_view(run or "")["parent_run_id"] for run in runs]


# Attempts.


def test_three_attempts_of_a_run_are_three_runs_of_one_name(ledger: Ledger) -> None:
    line, name = ledger.line(), new_id("flow")
    first, _, second, _, third, ended = ledger.accept(
        begin(name, line),
        named("run.failed", name),
        begin(name, line, attempt=2),
        named("run.cancelled", name),
        begin(name, line, attempt=3),
        named("run.completed", name),
    )
    runs = [first.subject or "", second.subject or "", third.subject or ""]
    assert len(set(runs)) == 3
    assert ended.subject == third.subject
    views = [ledger.run_view(run) for run in runs]
    assert [run["status"] for run in views] == ["failed", "cancelled", "completed"]
    assert [run["attempt"] for run in views] == [1, 2, 3]
    assert [run["retry_of"] for run in views] == [None, *runs[:2]]
    assert {run["external_id"] for run in views} == {name}
    for stored in ledger.events(runs[2]):
        body = stored["state"]["body"]
        assert (body["attempt"], body["retry_of"], body["external_id"]) == (3, runs[1], name)


def test_attempts_begin_and_end_in_one_batch(own_ledger: Ledger) -> None:
    line, name = own_ledger.line(), new_id("flow")
    facts = []
    for attempt in range(1, 41):
        facts += [begin(name, line, attempt=attempt), named("run.failed", name)]
    items = own_ledger.report(*facts)
    assert {item.outcome for item in items} == {"recorded"}
    assert [item.subject for item in items[::2]] == [item.subject for item in items[1::2]]
    assert len({item.subject for item in items}) == 40
    assert own_ledger.report(*facts) == [item._replace(outcome="duplicate") for item in items]
    (ended,) = own_ledger.accept(begin(name, line, attempt=41))
    assert ended.subject not in {item.subject for item in items}
    assert_decision_tables_match_log(own_ledger.conninfo)
    assert check(own_ledger.conninfo).findings == []


@pytest.mark.parametrize("end", [None, "run.completed"])
def test_a_run_that_goes_on_or_has_completed_is_not_tried_again(
    ledger: Ledger, end: str | None
) -> None:
    line, name = ledger.line(), new_id("flow")
    ledger.accept(begin(name, line), *([named(end, name)] if end is not None else []))
    assert ledger.refusal(begin(name, line, attempt=2)) == STATE
    assert ledger.refusal(named("run.requested", name, line, attempt=2)) == STATE


def test_an_attempt_follows_the_one_before(ledger: Ledger) -> None:
    line, name = ledger.line(), new_id("flow")
    for attempt in (2, 1000):
        assert ledger.refusal(begin(name, line, attempt=attempt)) == STATE
        assert ledger.refusal(named("run.failed", name, attempt=attempt)) == GONE
    ledger.accept(begin(name, line), named("run.failed", name))
    assert ledger.refusal(begin(name, line, attempt=3)) == STATE
    assert ledger.refusal(begin(name, line, attempt=1)) == STATE
    assert ledger.refusal(fact("run.started", None, {"service_line_id": line, "attempt": 2})) == (
        STATE
    ), "without a name there is one attempt"


@pytest.mark.parametrize("attempt", [0, 1001, -1, 1.5, "2", True])
def test_an_attempt_is_a_whole_number_from_1_to_1000(ledger: Ledger, attempt: Any) -> None:
    line, name = ledger.line(), new_id("flow")
    assert ledger.refusal(begin(name, line, attempt=attempt)) == INVALID


def test_a_fact_that_names_an_attempt_is_about_it(ledger: Ledger) -> None:
    line, name = ledger.line(), new_id("flow")
    first, _, second = ledger.accept(
        begin(name, line), named("run.failed", name, attempt=1), begin(name, line, attempt=2)
    )
    assert ledger.refusal(named("run.failed", name, attempt=1)) == STATE, "it has ended"
    correct = named("run.usage_corrected", name, attempt=1, tokens_used=7)
    (corrected,) = ledger.accept(correct)
    assert corrected.subject == first.subject
    subject = fact("run.completed", second.subject, {"attempt": 1})
    assert ledger.refusal(subject) == STATE, "the run is the second attempt"
    by_id = fact("run.usage_corrected", first.subject, {"external_id": name, "tokens_used": 9})
    (again,) = ledger.accept(by_id)
    assert again.subject == first.subject, "its id says which attempt is meant"
    (ended,) = ledger.accept(fact("run.completed", second.subject, {"attempt": 2}))
    assert ended.subject == second.subject


def test_a_closing_and_a_lease_end_an_attempt_under_its_name(ledger: Ledger) -> None:
    line, name = ledger.line(), new_id("flow")
    first, _, _, second = ledger.accept(
        begin(name, line),
        named("run.failed", name),
        fact("execution.checked_in", line),
        begin(name, line, attempt=2, lease_seconds=60),
    )
    ledger.listen()
    ledger.listen(61)
    assert ledger.lease_watch.run_once() == 1
    (third,) = ledger.accept(begin(name, line, attempt=3))
    ledger.accept(fact("service_line.closed", line))
    for item, before, attempt in ((second, first, 2), (third, second, 3)):
        body = ledger.events(item.subject or "")[-1]["state"]["body"]
        assert (body["external_id"], body["attempt"]) == (name, attempt)
        assert body["retry_of"] == before.subject


def test_the_attempt_before_must_be_seen(ledger: Ledger) -> None:
    name, own_line = new_id("flow"), in_workspace(ledger, NARROW.workspace_id)
    ledger.accept(begin(name, ledger.line()), named("run.failed", name))
    assert ledger.refusal(begin(name, own_line, attempt=2), by=NARROW) == ID_TAKEN


# Parents by name.


def test_a_tree_is_reported_in_one_batch_by_names_alone_and_children_first(
    own_ledger: Ledger,
) -> None:
    line, root = own_ledger.line(), new_id("trace")
    steps, tools = ([f"{root}/{n}" for n in range(3)], [f"{root}/{n}/tool" for n in range(3)])
    items = own_ledger.report(
        *(begin(tool, line, step) for tool, step in zip(tools, steps, strict=True)),
        *(named("run.completed", tool) for tool in tools),
        *(begin(step, line, root) for step in steps),
        begin(root, line),
    )
    assert {item.outcome for item in items} == {"recorded"}
    of_tools = [item.subject for item in items[:3]]
    of_steps = [item.subject for item in items[6:9]]
    assert parents(own_ledger, of_tools) == of_steps
    assert parents(own_ledger, of_steps) == [items[9].subject] * 3
    parents_given = [e for e in own_ledger.events(*filter(None, of_steps)) if "given" in e["topic"]]
    assert [e["state"]["causation_id"] for e in parents_given] == [items[9].event_ids[0]] * 3
    assert {e["state"]["actor"]["type"] for e in parents_given} == {"system"}
    assert {"fact"} & set().union(*(e["state"] for e in parents_given)) == set(), "no fact has them"
    assert {len(item.event_ids) for item in items} == {1}
    assert_decision_tables_match_log(own_ledger.conninfo)
    assert check(own_ledger.conninfo).findings == []


def test_a_parent_that_is_known_is_that_of_the_start(ledger: Ledger) -> None:
    line, parent, name = ledger.line(), new_id("flow"), new_id("task")
    first, _, second = ledger.accept(
        begin(parent, line), named("run.failed", parent), begin(parent, line, attempt=2)
    )
    (child,) = ledger.accept(begin(name, line, parent))
    assert parents(ledger, [child.subject]) == [second.subject], "the latest attempt"
    body = ledger.events(child.subject or "")[0]["state"]["body"]
    assert (body["parent_external_id"], body["parent_run_id"]) == (parent, second.subject)
    assert "awaiting" not in body
    ledger.accept(named("run.failed", parent), begin(parent, line, attempt=3))
    assert parents(ledger, [child.subject]) == [second.subject], "as it was at that moment"
    assert first.subject != second.subject


def test_a_parent_is_set_once_and_to_ended_runs_too(ledger: Ledger) -> None:
    line, parent, name = ledger.line(), new_id("flow"), new_id("task")
    child, _, first = ledger.accept(
        begin(name, line, parent), named("run.completed", name), begin(parent, line)
    )
    assert parents(ledger, [child.subject]) == [first.subject]
    ledger.accept(named("run.failed", parent), begin(parent, line, attempt=2))
    assert parents(ledger, [child.subject]) == [first.subject]
    assert ledger.topics(child.subject or "").count("run.parent_given") == 1


def test_a_run_that_got_a_parent_meanwhile_keeps_it(ledger: Ledger) -> None:
    line, parent, name, other = ledger.line(), new_id("flow"), new_id("task"), new_id("flow")
    (child,) = ledger.accept(named("run.requested", name, line, parent_external_id=parent))
    (outcome,) = ledger.accept(begin(other, line))
    ledger.accept(named("run.started", name, parent_run_id=outcome.subject))
    ledger.accept(begin(parent, line))
    assert parents(ledger, [child.subject]) == [outcome.subject]


def test_a_name_that_a_start_gives_to_a_requested_run_is_awaited_too(ledger: Ledger) -> None:
    line, parent, name = ledger.line(), new_id("flow"), new_id("task")
    requested = ledger.run(line, started=False)
    (child,) = ledger.accept(begin(name, line, parent))
    ledger.accept(fact("run.started", requested, {"external_id": parent}))
    assert parents(ledger, [child.subject]) == [requested]


def test_names_of_another_source_or_organization_are_other_parents(ledger: Ledger) -> None:
    line, parent, name = ledger.line(), new_id("flow"), new_id("task")
    (child,) = ledger.accept(begin(name, line, parent))
    ledger.accept(begin(parent, line) | {"source": "/elsewhere"})
    theirs = ledger.line(line=new_id("LIN"), organization_id=STRANGER.organization_id, by=STRANGER)
    ledger.accept(begin(parent, theirs), by=STRANGER)
    assert parents(ledger, [child.subject]) == [None]


@pytest.mark.parametrize("comes_first", [True, False])
def test_of_a_parent_that_the_credential_does_not_see_nothing_is_shown(
    ledger: Ledger, comes_first: bool
) -> None:
    own_line = in_workspace(ledger, NARROW.workspace_id)
    parent, name, other = new_id("flow"), new_id("task"), new_id("task")
    unseen, child = begin(parent, ledger.line()), begin(name, own_line, parent)
    wide = begin(other, own_line, parent)
    if comes_first:
        ledger.accept(unseen)
        (item,) = ledger.accept(child, by=NARROW)
        (outcome,) = ledger.accept(wide)
    else:
        (item,) = ledger.accept(child, by=NARROW)
        (outcome,) = ledger.accept(wide)
        ledger.accept(unseen)
    assert parents(ledger, [item.subject]) == [None]
    assert parents(ledger, [outcome.subject]) != [None], "a wider credential sees it"


@pytest.mark.parametrize("type", BEGUN)
def test_a_run_is_not_its_own_parent(ledger: Ledger, type: str) -> None:
    line, name = ledger.line(), new_id("flow")
    own = named(type, name, line, parent_external_id=name)
    assert ledger.refusal(own) == STATE
    ledger.accept(named("run.requested", name, line))
    assert ledger.refusal(named("run.started", name, parent_external_id=name)) == STATE
    run = ledger.run(line, started=False)
    assert ledger.refusal(fact("run.started", run, {"parent_run_id": run})) == STATE
    ledger.accept(
        begin(new_id("task"), line, "later"),
        fact("run.started", run, {"parent_external_id": "later", "external_id": new_id("t")}),
    )


@pytest.mark.parametrize("size", [2, 3, 100])
@pytest.mark.parametrize("together", [True, False])
def test_a_ring_of_names_stays_open_where_its_last_run_would_close_it(
    own_ledger: Ledger, size: int, together: bool
) -> None:
    """A client that walked up from such a run would never end."""
    line, names = own_ledger.line(), [new_id("task") for _ in range(size)]
    facts = [begin(name, line, names[n - 1]) for n, name in enumerate(names)]
    items = own_ledger.report(*facts) if together else [*map(own_ledger.accept, facts)]
    runs = [item.subject if together else item[0].subject for item in items]
    assert parents(own_ledger, runs) == [None, *runs[:-1]]
    assert check(own_ledger.conninfo).findings == []


@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize("has_parent", [True, False])
def test_a_start_passes_over_a_parent_that_lies_below_the_run(
    ledger: Ledger, by_name: bool, has_parent: bool
) -> None:
    line, names = ledger.line(), [new_id("task") for _ in range(5)]
    (root,) = ledger.accept(begin(new_id("flow"), line))
    expected = root.subject if has_parent else None
    top, *below = ledger.accept(
        named("run.requested", names[0], line, parent_run_id=expected),
        *(begin(name, line, names[n]) for n, name in enumerate(names[1:])),
    )
    last = {"parent_external_id": names[-1]} if by_name else {"parent_run_id": below[-1].subject}
    ledger.accept(named("run.started", names[0], **last))
    assert parents(ledger, [top.subject]) == [expected]
    assert "awaiting" not in ledger.events(top.subject or "")[-1]["state"]["body"]
    other = ledger.run(line)
    (later,) = ledger.accept(named("run.requested", new_id("task"), line, parent_run_id=expected))
    ledger.accept(fact("run.started", later.subject, {"parent_run_id": other}))
    assert parents(ledger, [later.subject]) == [other], "any other parent replaces it"


def test_a_run_that_awaits_a_name_keeps_waiting_where_its_parents_id_is_passed_over(
    ledger: Ledger,
) -> None:
    line, awaited, name = ledger.line(), new_id("flow"), new_id("task")
    child, below = ledger.accept(
        named("run.requested", name, line, parent_external_id=awaited),
        begin(new_id("task"), line, name),
    )
    ledger.accept(named("run.started", name, parent_run_id=below.subject))
    assert parents(ledger, [child.subject]) == [None]
    (parent,) = ledger.accept(begin(awaited, line))
    assert parents(ledger, [child.subject]) == [parent.subject]


def test_a_late_parent_with_more_than_a_thousand_runs_above_it_is_passed_over(
    own_ledger: Ledger,
) -> None:
    line, names = own_ledger.line(), [new_id("task") for _ in range(MAX_ABOVE + 1)]
    chain = [begin(n, line, above) for above, n in itertools.pairwise(names)]
    items = own_ledger.report(begin(names[0], line), *chain)
    assert {item.outcome for item in items} == {"recorded"}
    found = []
    for last in names[-2:]:
        awaited = new_id("task")
        (child,) = own_ledger.accept(begin(new_id("task"), line, awaited))
        (parent,) = own_ledger.accept(begin(awaited, line, last))
        found.append(parents(own_ledger, [child.subject]) == [parent.subject])
    assert found == [True, False]


def test_a_parent_has_an_id_or_a_name(ledger: Ledger) -> None:
    line, name = ledger.line(), new_id("flow")
    run = ledger.run(line)
    assert ledger.refusal(begin(name, line, new_id("flow"), parent_run_id=run)) == INVALID
    assert ledger.refusal(begin(name, line, "x" * 201)) == INVALID
    assert ledger.refusal(begin(name, line, "")) == INVALID
    ledger.accept(begin(name, line, None, parent_run_id=run, parent_external_id=None))


@pytest.mark.parametrize("is_open", [True, False])
def test_a_line_is_closed_whose_open_run_got_its_parent_later(
    ledger: Ledger, is_open: bool
) -> None:
    """The closing recorded a version that the run already had, and failed for ever."""
    line, parent, name = ledger.line(), new_id("flow"), new_id("task")
    (child,) = ledger.accept(begin(name, line, parent))
    closing = fact("service_line.closed", line)
    if is_open:
        ledger.accept(begin(parent, ledger.line()), closing)
    else:
        items = ledger.report(begin(parent, ledger.line()), closing)
        assert {item.outcome for item in items} == {"recorded"}
    topics = ["run.started", "run.parent_given", "run.cancelled"]
    assert ledger.topics(child.subject or "") == topics
    assert_decision_tables_match_log(ledger.conninfo)


def test_a_line_is_closed_after_its_runs_of_this_batch_got_their_parent(ledger: Ledger) -> None:
    line, parent = ledger.line(), new_id("flow")
    children = [begin(new_id("task"), line, parent) for _ in range(3)]
    closing = fact("service_line.closed", line)
    items = ledger.report(*children, begin(parent, ledger.line()), closing)
    assert {item.outcome for item in items} == {"recorded"}
    assert_decision_tables_match_log(ledger.conninfo)


def test_of_two_names_the_last_one_is_awaited_whether_its_run_is_unseen_or_unknown(
    ledger: Ledger,
) -> None:
    own = in_workspace(ledger, NARROW.workspace_id)
    unseen, unknown = new_id("flow"), new_id("flow")
    ledger.accept(begin(unseen, ledger.line()))
    found = []
    for second in (unseen, unknown):
        first, name = new_id("flow"), new_id("task")
        request = named("run.requested", name, own, parent_external_id=first)
        (child,) = ledger.accept(request, by=NARROW)
        ledger.accept(named("run.started", name, parent_external_id=second), by=NARROW)
        ledger.accept(begin(first, own), by=NARROW)
        found += parents(ledger, [child.subject])
    assert found == [None, None]


def test_a_run_that_names_its_parent_twice_awaits_it_once(ledger: Ledger) -> None:
    line, parent, name = ledger.line(), new_id("flow"), new_id("task")
    (child,) = ledger.accept(named("run.requested", name, line, parent_external_id=parent))
    ledger.accept(named("run.started", name, parent_external_id=parent))
    bodies = [event["state"]["body"] for event in ledger.events(child.subject or "")]
    assert [body.get("awaiting") for body in bodies] == [[1, None], None]
    (naming,) = ledger.accept(begin(parent, line))
    assert parents(ledger, [child.subject]) == [naming.subject]


def test_the_name_that_a_run_awaits_is_not_its_own(ledger: Ledger) -> None:
    line, name = ledger.line(), new_id("flow")
    begun = {"service_line_id": line, "parent_external_id": name}
    (item,) = ledger.accept(fact("run.requested", None, begun))
    named_so = fact("run.started", item.subject, {"external_id": name})
    assert ledger.refusal(named_so) == STATE


def test_two_runs_are_not_each_others_parents(ledger: Ledger) -> None:
    line, one, other = ledger.line(), new_id("flow"), new_id("flow")
    first, second = ledger.report(begin(one, line, other), begin(other, line, one))
    assert parents(ledger, [first.subject, second.subject]) == [None, first.subject]


def test_a_parent_is_set_no_earlier_than_the_run_was_requested(ledger: Ledger) -> None:
    line, parent, name = ledger.line(), new_id("flow"), new_id("task")
    (child,) = ledger.accept(begin(name, line, parent))
    ledger.accept(begin(parent, line) | {"time": ledger.ago(minutes=50)})
    begun, parent_event = ledger.events(child.subject or "")
    assert parent_event["state"]["occurred_at"] == begun["state"]["occurred_at"]


def test_a_refused_start_uses_no_id(ledger: Ledger) -> None:
    line, name = ledger.line(), new_id("flow")
    before, retried, own, after = ledger.report(
        begin(new_id("flow"), line),
        begin(name, line, attempt=2),
        begin(name, line, name),
        begin(new_id("flow"), line),
    )
    assert [retried.refusal, own.refusal] == [STATE, STATE]
    assert int((after.subject or "")[-6:]) == int((before.subject or "")[-6:]) + 1


def test_a_batch_about_retried_names_reads_as_often_as_one_fact(
    own_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, names = own_ledger.line(), [new_id("flow") for _ in range(30)]
    for attempt in (1, 2, 3):
        own_ledger.report(*(begin(name, line, attempt=attempt) for name in names))
        own_ledger.report(*(named("run.failed", name) for name in names))
    reads, read = list[Wanted](), Append.read

    def counted(append: Append, wanted: Wanted) -> Loaded:
        reads.append(wanted)
        return read(append, wanted)

    monkeypatch.setattr(Append, "read", counted)
    correct = [named("run.usage_corrected", name, tokens_used=1) for name in names]
    items = own_ledger.report(*correct)
    assert {item.outcome for item in items} == {"recorded"}
    assert len(reads) <= 4


def test_another_process_finds_attempts_and_gives_parents(own_ledger: Ledger) -> None:
    line, parent = own_ledger.line(), new_id("flow")
    names = [new_id("task") for _ in range(5)]
    children = own_ledger.report(*(begin(name, line, parent) for name in names))
    own_ledger.report(*(named("run.failed", name) for name in names))
    retries = [begin(name, line, parent, attempt=2) for name in names]
    log = Log(own_ledger.conninfo)
    writer = create_writer(own_ledger.settings, log, own_ledger.clock)
    writer.start()
    try:
        facts = [envelope.from_structured(encode(f)) for f in (*retries, begin(parent, line))]
        outcomes = writer.submit([command_of(each, ADMIN) for each in facts]).result(20)
    finally:
        writer.stop()
        log.close()
    receipts = [outcome for outcome in outcomes if isinstance(outcome, Receipt)]
    assert len(receipts) == 6
    runs = [*(item.subject for item in children), *(receipt.subject for receipt in receipts[:5])]
    assert parents(own_ledger, runs) == [receipts[5].subject] * 10
    assert check(own_ledger.conninfo).findings == []


@pytest.mark.parametrize("most", repeated([40, MAX_AWAITING]))
def test_many_runs_await_a_parent_and_get_it_in_one_append(own_ledger: Ledger, most: int) -> None:
    line, parent = own_ledger.line(), new_id("flow")
    runs: list[str | None] = []
    for begun in range(0, most, 40):
        names = [f"{parent}/{number}" for number in range(begun, begun + 40)]
        items = own_ledger.report(*(begin(name, line, parent) for name in names))
        runs += [item.subject for item in items]
        own_ledger.report(*(named("run.completed", name) for name in names))
    beyond = own_ledger.accept(begin(f"{parent}/more", line, parent))
    (item,) = own_ledger.accept(begin(parent, line))
    is_awaited = most < MAX_AWAITING
    assert parents(own_ledger, [beyond[0].subject]) == [item.subject if is_awaited else None]
    parents_given = [e for e in own_ledger.topics() if e == "run.parent_given"]
    assert len(parents_given) == most + is_awaited
    assert set(parents(own_ledger, runs[-3:])) == {item.subject}
    assert check(own_ledger.conninfo).findings == []
