"""The tree of spans, compared with a naive one that follows each way anew (contract, Traces)."""

from hypothesis import given
from hypothesis import strategies as st

from ledger.engine.log.tables import SpanRow
from ledger.features.runs.model.token_usage import TokenUsage
from ledger.features.traces.span_tree import SpanTree, children_of, key_of
from tests.support.audits import SIBLING
from tests.support.facts import ORGANIZATION, WORKSPACE

TRACE = bytes(16)


def row(number: int, parent: int | None, *, is_run: bool, more: tuple[int, int, int]) -> SpanRow:
    tokens, workspace, response = more
    return SpanRow(
        organization_id=ORGANIZATION,
        trace_id=TRACE,
        span_id=number.to_bytes(8, "big"),
        parent_id=None if parent is None else parent.to_bytes(8, "big"),
        workspace_id=("", WORKSPACE, SIBLING)[workspace],
        source="otlp:agents" if is_run else None,
        model="m" if tokens % 2 else None,
        input=tokens or None,
        output=tokens or None,
        cache_read=0 if tokens else None,
        cache_write=0 if tokens else None,
        reasoning=0 if tokens else None,
        response_id=f"r-{response}" if response else None,
    )


@st.composite
def spans(draw: st.DrawFn) -> list[SpanRow]:
    """Spans of a trace, some without their parents, some in circles."""
    size = draw(st.integers(1, 9))
    numbers = st.none() | st.integers(0, size)
    more = st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2))
    return [
        row(number, draw(numbers), is_run=draw(st.booleans()), more=draw(more))
        for number in range(size)
    ]


def way_up(rows: list[SpanRow], below: SpanRow) -> list[SpanRow]:
    """The spans above one, the nearest first, up to the nearest run."""
    by_id, way = {each.span_id: each for each in rows}, list[SpanRow]()
    above = by_id.get(below.parent_id or b"")
    while above is not None and above not in way:
        way.append(above)
        if above.source is not None:
            return way
        above = by_id.get(above.parent_id or b"")
    return way


def naive_run(rows: list[SpanRow], span: SpanRow) -> SpanRow | None:
    way = way_up(rows, span)
    return way[-1] if way and way[-1].source is not None else None


def visible_to(rows: list[SpanRow], sender: str) -> list[SpanRow]:
    return [each for each in rows if not sender or each.workspace_id in (sender, "")]


@given(spans(), st.sampled_from(["", WORKSPACE]))
def test_a_span_lies_in_the_nearest_run_above_it_that_its_sender_sees(
    every: list[SpanRow], sender: str
) -> None:
    tree, rows = SpanTree(every, sender), visible_to(every, sender)
    assert [tree.run_of(each) for each in rows] == [naive_run(rows, each) for each in rows]
    pairs = {(key_of(child), key_of(parent)) for child, parent in tree.children()}
    assert pairs == {
        (key_of(each), key_of(parent))
        for each in rows
        if each.source is not None
        and each.workspace_id == sender
        and (parent := naive_run(rows, each)) not in (None, each)
    }


@given(spans(), st.sampled_from(["", WORKSPACE]))
def test_a_run_has_the_tokens_of_the_spans_in_it_once(every: list[SpanRow], sender: str) -> None:
    usage, rows = SpanTree(every, sender).usage(), visible_to(every, sender)
    for run in (each for each in rows if each.source is not None):
        counted = [
            each
            for each in rows
            if each.source is None
            and each.input is not None
            and naive_run(rows, each) == run
            and not any(above.input is not None for above in way_up(rows, each)[:-1])
            and sender in ("", each.workspace_id)
        ]
        named = {each.response_id: each for each in reversed(counted) if each.response_id}
        counted_once = [each for each in counted if each in (named.get(each.response_id), None)]
        counted_once += [each for each in counted if each.response_id is None]
        sums = {usage.model: usage for usage in usage.get(key_of(run), ())}
        assert {model: each.input for model, each in sums.items()} == {
            model: sum(each.input or 0 for each in counted_once if (each.model or "") == model)
            for model in {each.model or "" for each in counted_once}
        }


@given(spans())
def test_no_run_comes_before_its_parent(rows: list[SpanRow]) -> None:
    runs = [each for each in rows if each.source is not None]
    tree = SpanTree(rows)
    ordered = tree.parents_first(runs)
    assert sorted(ordered) == sorted(runs)
    for at, run in enumerate(ordered):
        parent = naive_run(rows, run)
        above = [parent] if parent is not None else []
        while above and (higher := naive_run(rows, above[-1])) is not None and higher not in above:
            above.append(higher)
        if run not in above:  # a circle has no first one
            assert parent is None or parent in ordered[:at]


def test_no_token_of_a_call_that_two_libraries_tell_counts_twice() -> None:
    run = row(0, None, is_run=True, more=(0, 0, 0))
    outer, inner = (row(n, n - 1, is_run=False, more=(3, 0, 0)) for n in (1, 2))
    siblings = [row(n, 0, is_run=False, more=(1, 0, 1)) for n in (3, 4)]
    usage = SpanTree([inner, outer, *siblings, run]).usage()
    assert usage == {key_of(run): (TokenUsage("m", 4, 4),)}


def test_of_a_span_that_several_have_sent_the_senders_own_row_counts_first() -> None:
    runs = [row(n, None, is_run=True, more=(0, 0, 0)) for n in (1, 2, 3)]
    sent = [
        row(0, run, is_run=True, more=(0, workspace, 0))._replace(number=4 - run)
        for run, workspace in ((1, 0), (2, 1), (3, 2))
    ]
    for rows in (sent, sent[::-1]):
        found = {
            sender: SpanTree([*runs, *rows], sender).run_of(own)
            for sender, own in zip(("", WORKSPACE, SIBLING), sent, strict=True)
        }
        assert found == {"": runs[0], WORKSPACE: runs[1], SIBLING: runs[2]}
    assert children_of([*runs, *sent]) == [
        (sent[0], runs[0]),
        (sent[1], runs[1]),
        (sent[2], runs[2]),
    ]


def test_a_span_of_another_workspace_is_no_way_to_a_run() -> None:
    run, foreign = (
        row(1, None, is_run=True, more=(0, 0, 0)),
        row(2, 1, is_run=False, more=(0, 2, 0)),
    )
    below = row(3, 2, is_run=True, more=(0, 1, 0))
    assert SpanTree([run, foreign, below], WORKSPACE).run_of(below) is None
    assert SpanTree([run, foreign, below]).run_of(below) == run
