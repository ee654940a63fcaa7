"""Traces that arrive in parts and in any order: parents are given once (contract, Traces)."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from ledger.app.composition.api import create_api
from ledger.app.settings import Settings
from ledger.engine.postgres.locks import SPANS
from ledger.features.traces.tables import MOST
from tests.support.audits import SIBLING, Tenant
from tests.support.data_dirs import MASTER_KEY
from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION, WORKSPACE
from tests.support.soak import repeated
from tests.support.traces import agent, chat, export, run_of, span, trace_id
from tests.support.views import until

Made = tuple[list[tuple[int | None, bool]], list[list[int]]]


WAITS = f"""
SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = {SPANS} AND NOT granted
"""
FILL = """
WITH filled AS (
    INSERT INTO ledger.span (
        organization_id, workspace_id, trace_id, span_id, number, arrived_at)
    SELECT '{organization}', '', decode(md5('{organization}'), 'hex'), int8send(n), n + 1, now()
    FROM generate_series(1, {count}) AS n RETURNING 1
) SELECT count(*) FROM filled
"""
AGE = """
WITH aged AS (
    UPDATE ledger.span SET arrived_at = now() - interval '61 minutes'
    WHERE organization_id = '{organization}' RETURNING 1
) SELECT count(*) FROM aged
"""


@pytest.fixture(scope="module")
def worker(edge: Edge) -> Iterator[Edge]:
    """A second worker of the same service."""
    app = create_api(Settings(master_key=MASTER_KEY), edge.conninfo, edge.clock)
    with edge.second_worker(app) as worker:
        yield worker


@st.composite
def parts(draw: st.DrawFn) -> Made:
    """Spans as (parent, is a run), and the requests in which they arrive, some of them again."""
    size = draw(st.integers(5, 8))
    shape = [
        (draw(st.integers(0, n - 1)) if n else None, draw(st.integers(0, 2)) > 0)
        for n in range(size)
    ]
    order = draw(st.permutations(range(size)))
    cuts = sorted(draw(st.sets(st.integers(1, size - 1), min_size=2)))
    requests = [order[a:b] for a, b in zip([0, *cuts], [*cuts, size], strict=True)]
    again = draw(st.lists(st.sampled_from(requests), max_size=2))
    return shape, [*requests, *again]


@pytest.mark.parametrize("examples", repeated([10, 400]))
def test_a_trace_has_its_parents_in_whatever_parts_it_arrives(edge: Edge, examples: int) -> None:
    came_later: list[int] = []

    @given(parts())
    @settings(max_examples=examples, deadline=None)
    def check(made: Made) -> None:
        came_later.append(arrive(edge, *made))

    check()
    assert sum(came_later) > examples // 5


def arrive(edge: Edge, shape: list[tuple[int | None, bool]], requests: list[list[int]]) -> int:
    """Send a trace in parts, whose runs must get their parents; return how many came later."""
    line, spans = edge.fresh(), list[Span]()
    for parent, is_run in shape:
        above = trace_id() if parent is None else spans[parent]
        spans.append(agent(line, above) if is_run else span("step", above))
    for numbers in requests:
        assert export(edge, *[spans[number] for number in numbers]) == (0, "")
    runs = {n: run_of(edge, spans[n]) for n, (_, is_run) in enumerate(shape) if is_run}
    for number, run in runs.items():
        parent = shape[number][0]
        while parent is not None and parent not in runs:
            parent = shape[parent][0]
        assert run["parent_run_id"] == (None if parent is None else runs[parent]["id"])
    history = edge.data(f"/v1/execution/{line}/history", params={"limit": "100"})
    children = [each["subject"]["id"] for each in history if each["type"] == "run.parent_given"]
    assert len(children) == len({*children})
    assert len(history) == 1 + 2 * len(runs) + len(children)
    return len(children)


def test_a_parent_that_arrives_later_is_set_with_its_beginning_as_the_cause(edge: Edge) -> None:
    line = edge.fresh()
    root = agent(line, seconds=9)
    sub = agent(line, span("tool", root), after=2)
    tool = span("tool", root)
    tool.span_id = sub.parent_span_id
    assert export(edge, sub) == (0, "")
    assert export(edge, tool) == (0, "")
    assert run_of(edge, sub)["parent_run_id"] is None
    assert export(edge, root) == (0, "")
    parent = run_of(edge, root)
    assert run_of(edge, sub)["parent_run_id"] == parent["id"]
    history = edge.data(f"/v1/execution/{line}/history")
    (event,) = (each for each in history if each["type"] == "run.parent_given")
    (begun,) = (
        each
        for each in history
        if each["type"] == "run.started" and each["subject"]["id"] == parent["id"]
    )
    assert event["actor"] == {"type": "system", "id": "parent-by-trace"}
    assert event["causation_id"] == begun["id"]
    assert event["occurred_at"] == "2026-04-14T09:00:02Z"
    assert event["payload"]["parent_run_id"] == parent["id"]


def test_two_workers_that_bring_a_run_and_its_parent_at_once_lose_no_parent(
    edge: Edge, worker: Edge
) -> None:
    line = edge.fresh()
    for _ in range(4):
        root = agent(line)
        tools = [span("tool", root) for _ in range(4)]
        subs = [agent(line, tool) for tool in tools]
        requests = [[root], tools[:2], tools[2:], *[[sub] for sub in subs]]
        edges = itertools.cycle([edge, worker])
        with ThreadPoolExecutor(len(requests)) as pool:
            futures = [pool.submit(export, next(edges), *spans) for spans in requests]
        assert {each.result() for each in futures} == {(0, "")}
        parent = run_of(edge, root)["id"]
        assert {run_of(edge, sub)["parent_run_id"] for sub in subs} == {parent}


def test_a_span_waits_for_another_of_its_organization_that_is_being_stored(edge: Edge) -> None:
    """Else neither request would find what the other one brings, and the parent would be lost."""
    line = edge.fresh()
    root = agent(line)
    upper = span("tool", root)
    lower = span("tool", upper)
    sub = agent(line, lower)
    assert export(edge, root, sub) == (0, "")
    with psycopg.connect(edge.conninfo) as other, ThreadPoolExecutor(1) as pool:
        other.execute(f"SELECT pg_advisory_xact_lock({SPANS}, hashtext('{ORGANIZATION}'))")
        other.execute(
            "INSERT INTO ledger.span (organization_id, workspace_id, trace_id, span_id, parent_id,"
            " number, arrived_at) VALUES (%s, '', %s, %s, %s, 1, now())",
            (ORGANIZATION, upper.trace_id, upper.span_id, upper.parent_span_id),
        )
        future = pool.submit(export, edge, lower)
        until(lambda: edge.select(WAITS), "the request")
        other.commit()
        assert future.result() == (0, "")
    assert run_of(edge, sub)["parent_run_id"] == run_of(edge, root)["id"]


def test_a_run_gets_a_parent_that_its_sender_sees_and_no_other(tenant: Tenant) -> None:
    edge, whole = tenant.edge, tenant.token
    mine, elsewhere = tenant.line(), tenant.line(workspace_id=SIBLING)
    own = tenant.new_token("read", "write", workspace_id=WORKSPACE)
    roots = [agent(elsewhere), agent(mine), agent(elsewhere), agent(mine)]
    subs = [agent(mine, root) for root in roots]
    for root, sub in zip(roots[:2], subs[:2], strict=True):
        assert export(edge, root, token=whole) == (0, "")
        assert export(edge, sub, token=own) == (0, "")
    for root, sub in zip(roots[2:], subs[2:], strict=True):
        assert export(edge, sub, token=own) == (0, "")
        assert export(edge, root, token=whole) == (0, "")
    parents = [run_of(edge, root, whole)["id"] for root in roots]
    found = [run_of(edge, sub, own)["parent_run_id"] for sub in subs]
    assert found == [None, parents[1], None, parents[3]]


def test_tokens_of_a_workspace_count_for_its_own_senders_alone(tenant: Tenant) -> None:
    edge, line = tenant.edge, tenant.line()
    own = tenant.new_token("read", "write", workspace_id=WORKSPACE)
    root, whole = agent(line), agent(line)
    spans = chat(root, input=100), chat(whole, input=100)
    assert export(edge, *spans, token=tenant.token) == (0, "")
    assert export(edge, chat(root), chat(whole), root, token=own) == (0, "")
    assert export(edge, whole, token=tenant.token) == (0, "")
    assert run_of(edge, root, own)["tokens_used"] == 15
    assert run_of(edge, whole, own)["tokens_used"] == 120


def test_another_organization_that_sends_the_same_ids_changes_nothing(tenant: Tenant) -> None:
    edge, stranger = tenant.edge, edge_token(tenant)
    line = tenant.line()
    root = agent(line)
    tool = span("tool", root)
    sub = agent(line, tool)
    assert export(edge, sub, token=tenant.token) == (0, "")
    theirs = edge.fresh(organization_id="ORG-26-000777", token=stranger)
    forged = agent(theirs)
    forged.trace_id, forged.span_id = tool.trace_id, tool.span_id
    assert export(edge, forged, chat(sub), token=stranger) == (0, "")
    assert export(edge, tool, root, token=tenant.token) == (0, "")
    run = run_of(edge, sub, tenant.token)
    assert (run["parent_run_id"], run["tokens_used"]) == (
        run_of(edge, root, tenant.token)["id"],
        None,
    )


def edge_token(tenant: Tenant) -> str:
    return tenant.edge.token("read", "write", organization_id="ORG-26-000777")


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_circle_of_spans_ends_and_gives_no_run_itself(edge: Edge, length: int) -> None:
    line, trace = edge.fresh(), trace_id()
    spans = [agent(line, trace) for _ in range(length)]
    for number, each in enumerate(spans):
        each.parent_span_id = spans[number - 1].span_id
    for each in spans:
        assert export(edge, each, span("step", each), chat(each)) == (0, "")
    for each in spans:
        run = run_of(edge, each)
        assert run["parent_run_id"] != run["id"]


def test_an_organization_keeps_its_latest_spans(tenant: Tenant) -> None:
    edge, line = tenant.edge, tenant.line()
    root, later = agent(line), agent(line)
    assert export(edge, chat(root), token=tenant.token) == (0, "")
    edge.select(FILL.format(organization=tenant.organization, count=MOST - 1))
    assert export(edge, chat(later), token=tenant.token) == (0, "")
    assert count_spans(tenant) == MOST
    assert export(edge, root, later, token=tenant.token) == (0, "")
    assert count_spans(tenant) == MOST
    assert run_of(edge, root, tenant.token)["tokens_used"] is None
    assert run_of(edge, later, tenant.token)["tokens_used"] == 15


def test_spans_that_are_sent_again_replace_no_others(tenant: Tenant) -> None:
    spans = [span("x") for _ in range(5)]
    for _ in range(3):
        assert export(tenant.edge, *spans, token=tenant.token) == (0, "")
    numbers = tenant.edge.select(
        f"SELECT number FROM ledger.span WHERE organization_id = '{tenant.organization}'"
    )
    assert sorted(numbers) == [(n,) for n in range(1, 6)]


def test_the_housekeeper_forgets_spans_after_an_hour(tenant: Tenant) -> None:
    edge, line = tenant.edge, tenant.line()
    old, young = agent(line), agent(line)
    assert export(edge, chat(old), token=tenant.token) == (0, "")
    edge.select(AGE.format(organization=tenant.organization))
    assert export(edge, chat(young), token=tenant.token) == (0, "")
    edge.service.loops.housekeeper.run_once()
    assert count_spans(tenant) == 1
    assert export(edge, old, young, token=tenant.token) == (0, "")
    assert run_of(edge, old, tenant.token)["tokens_used"] is None
    assert run_of(edge, young, tenant.token)["tokens_used"] == 15


def count_spans(tenant: Tenant) -> int:
    ((count,),) = tenant.edge.select(
        f"SELECT count(*) FROM ledger.span WHERE organization_id = '{tenant.organization}'"
    )
    return int(count)


@pytest.mark.parametrize("apart", [True, False])
def test_spans_that_lie_below_one_another_in_a_ring_are_no_ring_of_runs(
    edge: Edge, apart: bool
) -> None:
    line = edge.fresh()
    spans = [agent(line, trace_id()) for _ in range(5)]
    for n, each in enumerate(spans):
        each.trace_id, each.parent_span_id = spans[0].trace_id, spans[n - 1].span_id
    for some in [[each] for each in spans] if apart else [spans]:
        assert export(edge, *some) == (0, "")
    above = {run["id"]: run["parent_run_id"] for run in (run_of(edge, each) for each in spans)}
    for run in above:
        way = [run]
        while (parent := above[way[-1]]) is not None:
            assert parent not in way
            way.append(parent)
    assert len([parent for parent in above.values() if parent]) == 4
