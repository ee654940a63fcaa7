"""How fast the ledger is, each figure beside the limit that this machine sets for it, measured in the same minute.

    python scripts/bench.py                     every row (under 3 minutes)
    python scripts/bench.py facts list          some rows; the ceiling is always the first
    python scripts/bench.py --short             small data and half the bounds, for CI

Each row warms up, then measures ours and the limit in turn, several short rounds; the ratio is the median of the rounds' ratios, so
it holds while the machine's speed drifts. A row is void when the load generator was the limit rather than the server. Exit code 1:
a row is under its bound (`--short`: under half of it), void, or could not be measured.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import limits
import loadgen
import psycopg

from ledger.domain.values import day_of, sort_key, week_of
from ledger.store.embedded import running
from projections import reading

ORGANIZATION = "ORG-26-000001"
BATCH = 1_000
LINES_A_BATCH = 200
PAGE = 25
BATCH_CLIENTS = 4  # two for each worker: one batch is decided while the other's bytes arrive
WARM_UP = 0.3
GATHER = 0.0002  # for rates: the generator looks for answers every 0.2 ms
SUPPLY = 16_000  # facts encoded for each second to be measured: more than any row reaches
NEAR_CEILING = 0.8  # of the ceiling, or of one core: from here on the generator is the limit

DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
EVENT_COLUMNS = "originator_id originator_version topic state notification_id recorded_at"
FACT_COLUMNS = "organization_id source fact_id digest run_id subject event_ids position"
CHECK_IN_COLUMNS = "line_id source fact_id hours at resource_id voided"
RUN_KEY_COLUMNS = "run_id organization_id wrapped destroyed_at"

MODELS = (
    ("talent", "capacity"),
    ("managed_services", "ongoing_sla"),
    ("ods", "timeboxed_outcome"),
    ("infrastructure", "infra_managed"),
    ("intelligence", "observability"),
    ("agent_gateway", "agent_runtime"),
)


class UnmeasuredError(Exception):
    """A row could not be measured; the text says why. The other rows go on."""


# The data: the same facts every time, but for their times


@dataclass
class Story:
    """Facts about `lines` service lines. Every tenth line is blocked, so it gets no runs."""

    lines: int
    now: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    serial: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    run: Iterator[int] = field(default_factory=lambda: itertools.count(1_000_000))

    def fact(self, kind: str, subject: str, **data: object) -> bytes:
        """One CloudEvent with an id never used before."""
        event = {
            "specversion": "1.0",
            "id": f"bench-{next(self.serial)}",
            "source": "/bench",
            "type": kind,
            "subject": subject,
            "time": self.now,
            "datacontenttype": "application/json",
            "data": data,
        }
        return json.dumps(event, separators=(",", ":")).encode()

    def beginning(self, number: int) -> list[bytes]:
        """All that makes one line as it is before the measurements: activation, a check-in, health, perhaps a blocker."""
        product_line, model = MODELS[number % len(MODELS)]
        line = line_id(number)
        engineer = {
            "type": "talent",
            "id": f"SCR-{100_000 + number}",
            "name": "Allocated engineer",
            "role": "senior_backend_engineer",
            "allocated_hours_per_week": 40,
        }
        facts = [
            self.fact(
                "service_line.activated",
                line,
                organization_id=ORGANIZATION,
                workspace_id=f"WS-26-{number % 20 + 1:06d}",
                product_line=product_line,
                execution_model=model,
                project_tags=[f"PROJ-26-{number % 50 + 1:06d}"],
                resources=[engineer],
                execution_id=f"RUN-26-{number:06d}",
            ),
            self.fact("execution.checked_in", line, hours=7.5, resource_id=engineer["id"]),
            self.fact("health.signal_reported", line, signal="hours_on_target", status="green"),
            self.fact("health.signal_reported", line, signal="sla_compliance", status="amber"),
        ]
        if number % 10 == 0:
            facts.append(
                self.fact(
                    "execution.blocked", line, blocker_id=f"BLK-{number}", cause="approval_gap"
                )
            )
        return facts

    def work(self, mix: str) -> Iterator[bytes]:
        """Endless facts of daily work: check-ins only, or half check-ins and half runs and health."""
        agents = [number for number in range(1, self.lines + 1) if number % 6 == 5 and number % 10]
        for turn in itertools.count(next(self.serial)):
            check_in = [
                self.fact(
                    "execution.checked_in",
                    line_id((turn * 31 + n) % self.lines + 1),
                    hours=1.25,
                    note="pair review",
                )
                for n in range(4)
            ]
            if mix == "check_ins":
                yield from check_in
                continue
            run, line = f"RUN-26-{next(self.run)}", line_id(agents[turn * 7 % len(agents)])
            caller = {"type": "api", "actor_id": "USR-26-000044"}
            prompt = {"prompt": "Summarise open tasks for project PROJ-26-004281"}
            summary = {
                "summary": "14 open tasks across 3 sprints. 2 are blocked.",
                "artifact_id": "ART-26-000991",
            }
            status = ("green", "amber")[turn % 2]
            yield check_in[0]
            yield self.fact(
                "run.requested", run, service_line_id=line, triggered_by=caller, input=prompt
            )
            yield check_in[1]
            yield self.fact("run.started", run, service_line_id=line)
            yield check_in[2]
            yield self.fact("run.completed", run, output=summary, tokens_used=1840)
            yield check_in[3]
            yield self.fact(
                "health.signal_reported", line, signal="agent_error_rate", status=status
            )


def line_id(number: int) -> str:
    """The service line with this number."""
    return f"LIN-26-{number:06d}"


def batch_of(facts: Sequence[bytes]) -> bytes:
    """The body of one batch."""
    return b"[" + b",".join(facts) + b"]"


# The product, running


@dataclass
class Product:
    """The ledger under measurement, and what its API and its database are reached by."""

    port: int
    key: str
    database_url: str

    def request(
        self, method: str, path: str, body: bytes = b"", kind: str = "application/json"
    ) -> bytes:
        """One request, encoded."""
        if body:
            return loadgen.request(
                method, path, body, authorization=f"Bearer {self.key}", content_type=kind
            )
        return loadgen.request(method, path, authorization=f"Bearer {self.key}")

    def post_fact(self, fact: bytes, path: str = "/v1/facts") -> bytes:
        """One fact, one request, encoded."""
        return self.request("POST", path, fact, "application/cloudevents+json")

    def post_batch(self, facts: Sequence[bytes]) -> bytes:
        """A batch of facts as one request, encoded."""
        return self.request(
            "POST", "/v1/facts", batch_of(facts), "application/cloudevents-batch+json"
        )


class Client:
    """A plain client for the few requests whose answers are looked at."""

    def __init__(self, product: Product) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", product.port, timeout=30)
        self._headers = {"authorization": f"Bearer {product.key}"}

    def ask(
        self, method: str, path: str, body: bytes = b"", kind: str = "application/json"
    ) -> tuple[int, bytes]:
        """Send one request; the position that the answer carries (0 without one) and its body. No 2xx is an error."""
        self._connection.request(
            method, path, body or None, self._headers | ({"content-type": kind} if body else {})
        )
        answer = self._connection.getresponse()
        content = answer.read()
        if not 200 <= answer.status < 300:
            raise UnmeasuredError(
                f"{method} {path} answered {answer.status}: {content[:300].decode(errors='replace')}"
            )
        return int(answer.headers.get("Ledger-Position", 0)), content

    def send_batch(self, facts: Sequence[bytes]) -> int:
        """Send a batch, insist that each fact is recorded; the position of the last."""
        _, content = self.ask(
            "POST", "/v1/facts", batch_of(facts), "application/cloudevents-batch+json"
        )
        items = json.loads(content)["data"]
        for item in items:
            if item["outcome"] != "recorded":
                raise UnmeasuredError(f"a fact of a batch was not recorded: {item}")
        return max(int(item["position"]) for item in items)


@contextlib.contextmanager
def serve_product(workers: int, folder: Path) -> Iterator[Product]:
    """`ledger serve` on a fresh data directory (or LEDGER_DATABASE_URL), with an API key."""
    ledger = str(Path(sys.executable).with_name("ledger"))
    data_dir = folder / "data"
    env = {"LEDGER_DATA_DIR": str(data_dir)}
    port = limits.free_port()
    command = [ledger, "serve", "--port", str(port), "--workers", str(workers)]
    with contextlib.ExitStack() as stack:
        ready = f"http://127.0.0.1:{port}/readyz"
        stack.enter_context(limits.serve(command, ready, folder / "ledger.log", env))
        create = [ledger, "keys", "create", "--organization", ORGANIZATION, "--name", "bench"]
        create += ["--permission", "read", "write", "service_lines:manage"]
        printed = subprocess.run(create, env=os.environ | env, stdout=subprocess.PIPE, check=True)
        url = os.environ.get("LEDGER_DATABASE_URL")
        if not url:
            url = stack.enter_context(running(data_dir, purpose="bench", announce=print)).url
        yield Product(port, printed.stdout.decode().strip(), url)


# What a measurement is made of


@dataclass
class Bench:
    """The options, the running product, and what earlier rows found out."""

    product: Product
    story: Story
    folder: Path
    seconds: float
    rounds: int
    clients: int
    workers: int
    mix: str
    ceiling: float = 0.0
    fact_rate: float = 0.0
    strained: str = ""  # why the row under way is void

    def rate(
        self, port: int, requests: list[list[bytes]], status: int, repeat: bool = True
    ) -> float:
        """Answers a second, all of them with `status`, or the row is off."""
        job = loadgen.Job(
            "127.0.0.1",
            port,
            requests,
            self.seconds,
            WARM_UP,
            repeat,
            workers=self.workers,
            gather=GATHER,
        )
        result = loadgen.run_load(job)
        if set(result.statuses) != {status}:
            raise UnmeasuredError(
                f"answers {result.statuses}, not only {status}; the first other: {result.refusal}"
            )
        if result.cpu_share > NEAR_CEILING or 0 < NEAR_CEILING * self.ceiling < result.rate:
            self.strained = (
                f"{result.rate:,.0f}/s with {result.cpu_share:.0%} of a core for the generator"
            )
        return result.rate

    def fact_requests(self, per_second: int = SUPPLY) -> list[list[bytes]]:
        """Single facts for one measurement, a run's facts on one connection so that they keep their order."""
        count = int(per_second * (self.seconds + WARM_UP) / self.clients) + 8
        encode = self.product.post_fact
        return [
            [encode(fact) for fact in itertools.islice(self.story.work(self.mix), count)]
            for _ in range(self.clients)
        ]


@dataclass
class Row:
    """One line of the table."""

    work: str
    ours: float
    limit: float | None = None
    ratio: float | None = None
    bound: str = ""
    reached: float | None = None  # of the bound: 1 just meets it, 0.5 is half of what it asks
    note: str = ""
    void: str = ""  # why the figure says nothing


def interleave(rounds: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Measure each in turn, `rounds` times, every other round backwards; one list of values a measure."""
    values: list[list[float]] = [[] for _ in measures]
    for number in range(rounds):
        order = list(zip(measures, values, strict=True))
        for measure, found in order if number % 2 == 0 else reversed(order):
            found.append(measure())
    return values


def compared(
    work: str, at_least: float, ours: Sequence[float], limit: Sequence[float], note: str = ""
) -> Row:
    """The row of rates measured in the same rounds."""
    ratio = statistics.median(one / other for one, other in zip(ours, limit, strict=True))
    return Row(
        work,
        statistics.median(ours),
        statistics.median(limit),
        ratio,
        f"{at_least}",
        ratio / at_least,
        note,
    )


# The rows


def ceiling(bench: Bench) -> Row:
    """What the generator itself reaches, against ASGI without a framework."""
    with limits.serve_limit("bare", bench.workers, bench.folder) as port:
        requests = [[loadgen.request("GET", "/")]] * bench.clients
        job = loadgen.Job(
            "127.0.0.1",
            port,
            requests,
            bench.seconds,
            WARM_UP,
            True,
            workers=bench.workers,
            gather=GATHER,
        )
        results = [loadgen.run_load(job) for _ in range(min(bench.rounds, 3))]
    bench.ceiling = max(result.rate for result in results)
    cpu = statistics.median(result.cpu_seconds / result.responses for result in results)
    return Row(
        "ceiling: bare ASGI, requests/s",
        bench.ceiling,
        note=f"the generator takes {cpu * 1e6:.0f} µs of CPU a request",
    )


def facts(bench: Bench) -> Row:
    """Facts one per request beside a FastAPI route that only parses them."""
    with limits.serve_limit("app", bench.workers, bench.folder, [100]) as port:
        bodies = list(itertools.islice(bench.story.work(bench.mix), 400))
        same = [bench.product.post_fact(fact, "/fact") for fact in bodies]
        ours, limit = interleave(
            bench.rounds,
            lambda: bench.rate(bench.product.port, bench.fact_requests(), 201, repeat=False),
            lambda: bench.rate(port, [same] * bench.clients, 201),
        )
    bench.fact_rate = statistics.median(ours)
    return compared("facts, one per request, facts/s", 0.2, ours, limit, f"{bench.clients} clients")


def batches(bench: Bench) -> Row:
    """Facts in batches beside COPY of the same rows."""
    client, facts_of = Client(bench.product), bench.story.work(bench.mix)
    ends = [client.send_batch(list(itertools.islice(facts_of, BATCH))) for _ in range(9)]
    count = int(SUPPLY * 2 * (bench.seconds + WARM_UP) / BATCH / BATCH_CLIENTS) + 1

    def ours() -> float:
        streams = [bench.story.work(bench.mix) for _ in range(BATCH_CLIENTS)]
        encode = bench.product.post_batch
        requests = [
            [encode(list(itertools.islice(each, BATCH))) for _ in range(count)] for each in streams
        ]
        return BATCH * bench.rate(bench.product.port, requests, 200, repeat=False)

    with psycopg.connect(bench.product.database_url) as connection:
        copied = [
            [limits.read_rows(connection, *table) for table in rows_of_batch(low, high)]
            for low, high in itertools.pairwise(ends)
        ]
        limits.create_clones(connection, copied[0])
        try:
            mine, limit = interleave(
                bench.rounds,
                ours,
                lambda: (
                    BATCH
                    / statistics.median(limits.copy_seconds(connection, copied, bench.seconds / 2))
                ),
            )
        finally:
            connection.rollback()
            limits.drop_clones(connection)
    tables = ", ".join(rows.table for rows in copied[0])
    return compared(
        f"facts in batches of {BATCH:,}, facts/s",
        0.08,
        mine,
        limit,
        f"{BATCH_CLIENTS} clients; COPY into {tables}",
    )


def rows_of_batch(low: int, high: int) -> list[tuple[str, tuple[str, ...], str]]:
    """(table, columns, SELECT) for all that the append of the positions low < p <= high inserted.

    Rows that it changes in place (`line_activity`, `open_run`) have no COPY. They are left out,
    which favours the limit.
    """
    events = (
        f"FROM ledger.ledger_events WHERE notification_id > {low} AND notification_id <= {high}"
    )
    reported = f"FROM ledger.fact WHERE position > {low} AND position <= {high}"
    check_ins = (
        f"FROM ledger.check_in WHERE (source, fact_id) IN (SELECT source, fact_id {reported})"
    )
    keys = f"FROM ledger.run_key WHERE run_id IN (SELECT run_id {reported})"
    wanted = [
        ("ledger_events", EVENT_COLUMNS, events),
        ("fact", FACT_COLUMNS, reported),
        ("check_in", CHECK_IN_COLUMNS, check_ins),
        ("run_key", RUN_KEY_COLUMNS, keys),
    ]
    return [
        (f"ledger.{table}", tuple(columns.split()), f"SELECT {columns.replace(' ', ', ')} {rows}")
        for table, columns, rows in wanted
    ]


def read_row(bench: Bench, work: str, paths: Sequence[str], queries: list[limits.Query]) -> Row:
    """GETs beside what their parts allow: 1 / (1/A + 1/B), A = constant bytes from FastAPI, B = the SQL from bare psycopg."""
    client = Client(bench.product)
    size = int(statistics.median(len(client.ask("GET", path)[1]) for path in paths[:20]))
    # Each connection begins somewhere else in the paths, as people do.
    gets = [bench.product.request("GET", path) for path in paths]
    requests = [
        gets[at % len(gets) :] + gets[: at % len(gets)] for at in range(0, 17 * bench.clients, 17)
    ]
    job = limits.StatementJob(bench.product.database_url, queries, bench.clients, bench.seconds)
    with limits.serve_limit("app", bench.workers, bench.folder, [size]) as port:
        constant = [[bench.product.request("GET", f"/bytes/{size}")]] * bench.clients
        ours, route, query = interleave(
            bench.rounds,
            lambda: bench.rate(bench.product.port, requests, 200),
            lambda: bench.rate(port, constant, 200),
            lambda: limits.statement_rate(job, bench.workers),
        )
    limit = [1 / (1 / a + 1 / b) for a, b in zip(route, query, strict=True)]
    note = (
        f"{size:,} bytes; A {statistics.median(route):,.0f}/s, B {statistics.median(query):,.0f}/s"
    )
    return compared(work, 0.5, ours, limit, note)


def lists(bench: Bench) -> Row:
    """Pages of 25 lines, the first eight in turn."""
    client, paths, queries = Client(bench.product), [], []
    more: dict[str, object] = {}
    cursor = ""
    for _ in range(8):
        paths.append(f"/v1/execution?limit={PAGE}{cursor}")
        parameters = {**tenant_and_clock(), "limit": PAGE + 1, **more}
        names = frozenset({"organization", *more})
        queries.append((reading.list_statement(names), parameters))
        answer = json.loads(client.ask("GET", paths[-1])[1])
        if not answer["meta"]["has_more"]:
            break
        cursor = f"&cursor={answer['meta']['cursor']}"
        more = {"after": sort_key(answer["data"][-1]["id"])}
    return read_row(bench, f"list of {PAGE}, requests/s", paths, queries)


def detail(bench: Bench) -> Row:
    """One line, another one each time."""
    step = max(1, bench.story.lines // 200)
    ids = [line_id(number) for number in range(1, bench.story.lines + 1, step)]
    statement = reading.detail_statement(frozenset({"organization"}))
    queries = [(statement, {**tenant_and_clock(), "line_id": line}) for line in ids]
    return read_row(bench, "detail, requests/s", [f"/v1/execution/{line}" for line in ids], queries)


def tenant_and_clock() -> dict[str, object]:
    """What the edge binds in every read of lines."""
    now = datetime.now(UTC)
    return {"organization": ORGANIZATION, "today": day_of(now), "week": week_of(now)}


def visible(bench: Bench) -> Row:
    """How long a write takes until every read sees it, under half load, beside one fsync."""
    if not bench.fact_rate:
        bench.fact_rate = bench.rate(bench.product.port, bench.fact_requests(), 201, repeat=False)
    half = bench.fact_rate / 2
    shown: list[float] = []
    stale: list[bool] = []

    def under_half_load() -> float:
        requests = bench.fact_requests(int(half))
        job = loadgen.Job(
            "127.0.0.1",
            bench.product.port,
            requests,
            bench.seconds,
            WARM_UP,
            rate=half,
            workers=bench.workers,
        )
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(loadgen.run_load, job)
            probe_visibility(bench, shown, stale, load.done)
            return load.result().p99_ms

    ours, commit = interleave(
        bench.rounds,
        under_half_load,
        lambda: limits.commit_seconds(bench.product.database_url, bench.seconds / 5) * 1e3,
    )
    slowest, fsync = statistics.median(ours), statistics.median(commit)
    ratio = statistics.median(one / other for one, other in zip(ours, commit, strict=True))
    seen = f"p50 {loadgen.percentile(sorted(shown), 0.5):.1f}, p99 {loadgen.percentile(sorted(shown), 0.99):.1f} ms"
    note = f"{half:,.0f} facts/s; from the answer to a GET that shows it {seen}, {sum(stale)} of {len(shown)} GETs were too early"
    reached = max(30 / ratio, 15 / slowest)
    return Row(
        "commit to visible, p99 ms at half load",
        slowest,
        fsync,
        ratio,
        "≤ 30 or 15 ms",
        reached,
        note,
    )


def probe_visibility(
    bench: Bench, shown: list[float], stale: list[bool], over: Callable[[], bool]
) -> None:
    """Report a check-in, ask for its line until the answer is as late as the check-in; note how long that took."""
    client = Client(bench.product)
    for number in itertools.cycle(range(1, bench.story.lines + 1)):
        if over():
            return
        fact = bench.story.fact("execution.checked_in", line_id(number), hours=0.25)
        position, _ = client.ask("POST", "/v1/facts", fact, "application/cloudevents+json")
        answered = time.perf_counter()
        first = True
        while client.ask("GET", f"/v1/execution/{line_id(number)}")[0] < position:
            first = False
            if time.perf_counter() - answered > 5:
                raise UnmeasuredError(f"position {position} was not visible after 5 s")
        shown.append((time.perf_counter() - answered) * 1e3)
        stale.append(not first)


ROWS: dict[str, Callable[[Bench], Row]] = {
    "facts": facts,
    "batches": batches,
    "list": lists,
    "detail": detail,
    "visible": visible,
}


# The command


def load_lines(bench: Bench) -> None:
    """Put the lines in, through the API, in batches of whole lines; look at one outcome, and at the count."""
    client = Client(bench.product)
    numbers = iter(range(1, bench.story.lines + 1))
    client.send_batch(
        [
            fact
            for number in itertools.islice(numbers, LINES_A_BATCH)
            for fact in bench.story.beginning(number)
        ]
    )
    while chunk := list(itertools.islice(numbers, 40 * LINES_A_BATCH)):
        parts = [chunk[at : at + LINES_A_BATCH] for at in range(0, len(chunk), LINES_A_BATCH)]
        encoded = [
            bench.product.post_batch(
                [fact for number in part for fact in bench.story.beginning(number)]
            )
            for part in parts
        ]
        requests = [share for n in range(BATCH_CLIENTS) if (share := encoded[n::BATCH_CLIENTS])]
        loadgen.run_load(loadgen.Job("127.0.0.1", bench.product.port, requests))
    total = json.loads(client.ask("GET", "/v1/execution/summary")[1])["data"]["total"]
    if total < bench.story.lines:
        raise UnmeasuredError(f"only {total} of {bench.story.lines} lines are there")


def measure(bench: Bench, names: Sequence[str]) -> Iterator[Row]:
    """The ceiling, then each named row; one that cannot be measured is void, and says why."""
    yield ceiling(bench)
    for name in names:
        bench.strained = ""
        try:
            row = ROWS[name](bench)
            row.void = bench.strained and f"the load generator was the limit: {bench.strained}"
        except (UnmeasuredError, RuntimeError, psycopg.Error) as error:
            row = Row(name, 0.0, void=f"not measured: {error}")
        yield row


def cells(row: Row) -> str:
    """One row as a line of a Markdown table."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2f}"

    note = row.void and f"VOID: {row.void}" or row.note
    return f"| {row.work} | {number(row.ours)} | {number(row.limit)} | {number(row.ratio)} | {row.bound} | {note} |"


def machine(product: Product) -> dict[str, Any]:
    """What the figures were measured on; without fsync they would say nothing."""
    with psycopg.connect(product.database_url) as connection:
        shown = {
            name: str(connection.execute(f"SHOW {name}").fetchone()[0])
            for name in ("server_version", *DURABLE)
        }  # type: ignore[index]
    if any(shown[name] != "on" for name in DURABLE):
        raise UnmeasuredError(f"PostgreSQL is not durable: {shown}")
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        **shown,
    }


def run(asked: argparse.Namespace) -> int:
    """Start the product, load the lines, measure and print; the exit code."""
    share = 0.5 if asked.short else 1.0
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ledger-bench-")))
        folder.chmod(0o755)  # as root, PostgreSQL runs as somebody else, who must get in
        if asked.url_port:
            product = Product(asked.url_port, asked.key, os.environ["LEDGER_DATABASE_URL"])
        else:
            product = stack.enter_context(serve_product(asked.workers, folder))
        story = Story(asked.lines)
        bench = Bench(
            product,
            story,
            folder,
            asked.seconds,
            asked.rounds,
            asked.clients,
            asked.workers,
            asked.mix,
        )
        about = machine(product)
        load_lines(bench)
        if not asked.json:
            print(
                ", ".join(f"{name} {value}" for name, value in about.items())
                + f"; {asked.lines:,} lines, mix {asked.mix}\n"
            )
            print(
                "| work | ours | limit | ratio | at least | |\n|---|--:|--:|--:|--:|---|",
                flush=True,
            )
        rows = []
        for row in measure(bench, asked.rows or list(ROWS)):
            rows.append(row)
            if not asked.json:
                print(cells(row), flush=True)
    if asked.json:
        print(
            json.dumps(
                {
                    "machine": about,
                    "lines": asked.lines,
                    "mix": asked.mix,
                    "rows": [asdict(row) for row in rows],
                }
            )
        )
    missed = [
        row.work for row in rows if row.void or (row.reached is not None and row.reached < share)
    ]
    if missed:
        print(
            f"\nunder {'half of ' if asked.short else ''}the bound, or void: {', '.join(missed)}",
            file=sys.stderr,
        )
    return 1 if missed else 0


def main() -> int:
    """Read the options; `--short` only changes what was not given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "rows",
        nargs="*",
        choices=[[], *ROWS],
        metavar="ROW",
        help=f"{', '.join(ROWS)} (default: all)",
    )
    parser.add_argument("--seconds", type=float, help="of each round (1.5)")
    parser.add_argument("--rounds", type=int, help="of each row (5)")
    parser.add_argument("--lines", type=int, help="service lines loaded first (2000)")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--mix", choices=("mixed", "check_ins"), default="mixed", help="the facts reported"
    )
    parser.add_argument(
        "--short", action="store_true", help="200 lines, 3 rounds of 0.5 s, half the bounds: for CI"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object at the end, no table"
    )
    parser.add_argument(
        "--url-port",
        type=int,
        help="measure a ledger that runs already on this port (LEDGER_DATABASE_URL too)",
    )
    parser.add_argument("--key", default="", help="its API key")
    asked = parser.parse_args()
    asked.seconds = asked.seconds or (0.5 if asked.short else 1.5)
    asked.rounds = asked.rounds or (3 if asked.short else 5)
    asked.lines = asked.lines or (200 if asked.short else 2_000)
    return run(asked)


if __name__ == "__main__":
    sys.exit(main())
