"""A tenant that floods a worker delays a neighbour's fact by one slot, not by its whole queue."""

from concurrent.futures import ThreadPoolExecutor

from tests.support.edge import Edge
from tests.support.facts import activation, encode, fact
from tests.support.views import until

FLOODING = 12
OTHER = "ORG-26-000077"


def test_a_fact_is_answered_while_a_neighbours_batches_wait(edge: Edge) -> None:
    line, other_line = edge.fresh(), edge.fresh_id()
    token = edge.token("read", "write", organization_id=OTHER)
    edge.accept(activation(other_line, organization_id=OTHER), token=token)
    batches = [
        [encode(fact("execution.checked_in", line, {"hours": 1})) for _ in range(500)]
        for _ in range(FLOODING)
    ]
    shares = edge.service.app.state.services.shares
    with ThreadPoolExecutor(FLOODING) as pool:
        floods = [pool.submit(edge.send_batch, *batch) for batch in batches]
        until(lambda: shares.writes.all == FLOODING, "the flood")
        answers = [edge.send(fact("execution.checked_in", other_line), token) for _ in range(3)]
        waiting = [flood for flood in floods if not flood.done()]
    assert [answer.status_code for answer in answers] == [201] * 3
    assert waiting
    positions = []
    for flood in floods:
        answer = flood.result()
        assert answer.status_code == 200
        items = answer.json()["data"]
        assert {item["outcome"] for item in items} == {"recorded"}
        own = [item["position"] for item in items]
        assert own == sorted(own)
        assert int(answer.headers["ledger-position"]) == own[-1]
        positions += own
    between = answers[-1].json()["data"]["position"]
    assert len([position for position in positions if position > between]) > 1_000
    found = edge.get(f"/v1/execution/{other_line}", token)
    assert int(found.headers["ledger-position"]) >= between
