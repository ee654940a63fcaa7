"""The rows about neighbours: single facts of three tenants while a fourth floods the service."""

import itertools
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import loadgen
from cost_rows import fresh_ledger
from measure import WARM_UP, Bench, Row, at_most
from product import MANY, ONE, Product, UnmeasuredError, run_ledger
from story import BATCH, Story, batch_of, line_id

FLOODING = 64  # connections of batches
NEIGHBOURS = ("ORG-26-000002", "ORG-26-000003", "ORG-26-000004")
FIRST_LINE = 900_001  # of the neighbours: one line each
PER_SECOND = 6  # single facts of all neighbours: so rare that none waits for another
LEAST_SECONDS = 10.0
SUPPLIED = 6  # batches of each flooding connection, so that the flood outlasts the measurement
MOST_P50, MOST_P99 = 100, 500  # ms


def key_of(product: Product, organization: str) -> str:
    by = ("--organization", organization, "--name", "bench", "--permission", "read", "write")
    return run_ledger(product.env, "keys", "create", *by, ledger=product.ledger).strip()


def neighbours(bench: Bench) -> Sequence[Row]:
    """The latency of neighbours' single facts during a flood of batches by one tenant."""
    seconds = max(LEAST_SECONDS, bench.seconds)
    with fresh_ledger(bench) as product:
        quiet = singles(product, facts_of(product, "quiet"), 2.0)
        story = Story([], [])
        lines = itertools.cycle(line_id(n) for n in range(1, 501))
        floods = [
            [
                product.post(
                    batch_of(
                        story.fact("execution.checked_in", next(lines), hours=1)
                        for _ in range(BATCH)
                    ),
                    MANY,
                )
                for _ in range(SUPPLIED)
            ]
            for _ in range(FLOODING)
        ]
        flood = loadgen.Job(product.port, floods, seconds + 3 * WARM_UP, workers=bench.workers)
        others, flooded = with_flood(product, flood, seconds)
    note = (
        f"{FLOODING} connections of batches at {BATCH * flooded.rate:,.0f} facts/s;"
        f" without: p50 {quiet.p50_ms:.1f}, p99 {quiet.p99_ms:.1f} ms"
    )
    return (
        at_most("neighbours' facts, p50 ms", others.p50_ms, MOST_P50, "ms", note),
        at_most("neighbours' facts, p99 ms", others.p99_ms, MOST_P99, "ms", f"{others.responses}"),
    )


def with_flood(
    product: Product, flood: loadgen.Job, seconds: float
) -> tuple[loadgen.Result, loadgen.Result]:
    """Send the neighbours' facts during a flood; return both results."""
    facts = facts_of(product, "beside")
    with ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(loadgen.run_load, flood)
        others = singles(product, facts, seconds)
        flooded = flooding.result()
    if set(flooded.statuses) != {200}:
        raise UnmeasuredError(f"the flood was answered {flooded.statuses}: {flooded.refusal}")
    return others, flooded


def facts_of(product: Product, name: str) -> list[list[bytes]]:
    """Requests of the neighbours: check-ins on a line of each. The call activates the lines."""
    requests = []
    for number, organization in enumerate(NEIGHBOURS):
        key = product.key
        product.key = key_of(product, organization)
        try:
            requests.append(_of_one(product, organization, line_id(FIRST_LINE + number), name))
        finally:
            product.key = key
    return requests


def _of_one(product: Product, organization: str, line: str, name: str) -> list[bytes]:
    source = f"/bench/{name}/{organization}"

    def fact(number: int, kind: str, **data: object) -> bytes:
        event = {"specversion": "1.0", "id": str(number), "source": source, "type": kind}
        return json.dumps({**event, "subject": line, "data": data}).encode()

    begun = {"product_line": "talent", "execution_model": "capacity"}
    tenant = {"organization_id": organization, "workspace_id": "WS-26-000001"}
    activated = fact(0, "service_line.activated", **tenant, **begun)
    loadgen.run_load(loadgen.Job(product.port, [[product.post(activated, ONE)]]))
    count = int(PER_SECOND * LEAST_SECONDS * 4)
    return [
        product.post(fact(n, "execution.checked_in", hours=1), ONE) for n in range(1, count + 1)
    ]


def singles(product: Product, requests: list[list[bytes]], seconds: float) -> loadgen.Result:
    job = loadgen.Job(product.port, requests, seconds, 2 * WARM_UP, rate=PER_SECOND)
    result = loadgen.run_load(job)
    if set(result.statuses) != {201}:
        raise UnmeasuredError(f"neighbours were answered {result.statuses}: {result.refusal}")
    return result
