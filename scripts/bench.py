"""How fast the ledger is, each figure beside the limit that this machine sets for it.

    python scripts/bench.py                     every row (under 3 minutes)
    python scripts/bench.py facts list          some rows; the ceiling is always the first
    python scripts/bench.py --short             small data and half the bounds, for CI

Each row warms up, then measures ours and the limit in turn, several short rounds; the ratio is the
median of the rounds' ratios, so it holds while the machine's speed drifts. A row is void when the
load generator was the limit rather than the server. Exit code 1: a row is under its bound
(`--short`: under half of it), void, or could not be measured.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import limits
import loadgen
import psycopg

from ledger.domain.values import day_of, sort_key, week_of
from ledger.store.embedded import running
from projections import reading

ORGANIZATION = "ORG-26-000001"
BATCH = 1_000
BATCH_CLIENTS = 4  # two for each worker: one batch is decided while the other's bytes arrive
LINES_A_BATCH = 200
PAGE = 25
WARM_UP = 0.3
GATHER = 0.0002  # for rates: the generator looks for answers every 0.2 ms
SUPPLY = 16_000  # facts encoded for each second to be measured: more than any row reaches
NEAR_CEILING = 0.8  # of the ceiling, or of one core: from here on the generator is the limit
ONE, MANY = "application/cloudevents+json", "application/cloudevents-batch+json"
DURABLE = ("fsync", "synchronous_commit", "full_page_writes")

MODELS = (
    ("talent", "capacity"),
    ("managed_services", "ongoing_sla"),
    ("ods", "timeboxed_outcome"),
    ("infrastructure", "infra_managed"),
    ("intelligence", "observability"),
    ("agent_gateway", "agent_runtime"),
)
ENGINEER = {
    "type": "talent",
    "name": "Allocated engineer",
    "role": "senior_backend_engineer",
    "allocated_hours_per_week": 40,
}
CALLER = {"type": "api", "actor_id": "USR-26-000044"}
PROMPT = {"prompt": "Summarise open tasks for project PROJ-26-004281"}
SUMMARY = {
    "summary": "14 open tasks across 3 sprints. 2 are blocked.",
    "artifact_id": "ART-26-000991",
}

# The columns of the tables that an append inserts into.
EVENT = "originator_id originator_version topic state notification_id recorded_at"
FACT = "organization_id source fact_id digest run_id subject event_ids position"
CHECK_IN = "line_id source fact_id hours at resource_id voided"
RUN_KEY = "run_id organization_id wrapped destroyed_at"


class UnmeasuredError(Exception):
    """A row could not be measured; the text says why. The other rows go on."""


# The data: the same facts every time, but for their times


def line_id(number: int) -> str:
    """The service line with this number."""
    return f"LIN-26-{number:06d}"


@dataclass
class Story:
    """Facts about `lines` service lines. Every tenth line is blocked, so it gets no runs."""

    lines: int
    mix: str = "mixed"
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
        """What makes one line: activation, a check-in, health, perhaps a blocker."""
        line, (product_line, model) = line_id(number), MODELS[number % len(MODELS)]
        activated = self.fact(
            "service_line.activated",
            line,
            organization_id=ORGANIZATION,
            workspace_id=f"WS-26-{number % 20 + 1:06d}",
            product_line=product_line,
            execution_model=model,
            project_tags=[f"PROJ-26-{number % 50 + 1:06d}"],
            resources=[{"id": f"SCR-{100_000 + number}", **ENGINEER}],
            execution_id=f"RUN-26-{number:06d}",
        )
        facts = [
            activated,
            self.fact("execution.checked_in", line, hours=7.5),
            self.fact("health.signal_reported", line, signal="hours_on_target", status="green"),
            self.fact("health.signal_reported", line, signal="sla_compliance", status="amber"),
        ]
        if number % 10 == 0:
            facts.append(
                self.fact("execution.blocked", line, blocker_id="BLK-1", cause="approval_gap")
            )
        return facts

    def work(self) -> Iterator[bytes]:
        """Endless facts of daily work: check-ins alone, or half of them runs and health."""
        agents = [n for n in range(1, self.lines + 1) if n % len(MODELS) == 5 and n % 10]
        for turn in itertools.count(next(self.serial)):
            places = [line_id((turn * 31 + n) % self.lines + 1) for n in range(4)]
            check_ins = [self.fact("execution.checked_in", at, hours=1.25) for at in places]
            if self.mix == "check_ins":
                yield from check_ins
                continue
            run, line = f"RUN-26-{next(self.run)}", line_id(agents[turn * 7 % len(agents)])
            status = ("green", "amber")[turn % 2]
            yield check_ins[0]
            yield self.fact(
                "run.requested", run, service_line_id=line, triggered_by=CALLER, input=PROMPT
            )
            yield check_ins[1]
            yield self.fact("run.started", run, service_line_id=line)
            yield check_ins[2]
            yield self.fact("run.completed", run, output=SUMMARY, tokens_used=1840)
            yield check_ins[3]
            yield self.fact(
                "health.signal_reported", line, signal="agent_error_rate", status=status
            )


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

    def get(self, path: str) -> bytes:
        """One encoded GET."""
        return loadgen.request("GET", path, authorization=f"Bearer {self.key}")

    def post(self, body: bytes, kind: str = ONE, path: str = "/v1/facts") -> bytes:
        """One encoded POST of facts."""
        key = f"Bearer {self.key}"
        return loadgen.request("POST", path, body, authorization=key, content_type=kind)


class Client:
    """A plain client for the few requests whose answers are looked at."""

    def __init__(self, product: Product) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", product.port, timeout=30)
        self._key = {"authorization": f"Bearer {product.key}"}

    def get(self, path: str) -> tuple[int, bytes]:
        """The answer's position and body."""
        return self._ask("GET", path, None, self._key)

    def post(self, body: bytes, kind: str = ONE) -> tuple[int, bytes]:
        """Post facts; the answer's position and body."""
        return self._ask("POST", "/v1/facts", body, {**self._key, "content-type": kind})

    def post_batch(self, facts: Sequence[bytes]) -> int:
        """Post a batch, insist that each fact is recorded; the position of the last."""
        items = json.loads(self.post(batch_of(facts), MANY)[1])["data"]
        for item in items:
            if item["outcome"] != "recorded":
                raise UnmeasuredError(f"a fact of a batch was not recorded: {item}")
        return max(int(item["position"]) for item in items)

    def _ask(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if not 200 <= answer.status < 300:
            text = content[:300].decode(errors="replace")
            raise UnmeasuredError(f"{method} {path} answered {answer.status}: {text}")
        return int(answer.headers["Ledger-Position"]), content


@contextlib.contextmanager
def serve_product(workers: int, folder: Path) -> Iterator[Product]:
    """`ledger serve` on a fresh data directory (or LEDGER_DATABASE_URL), with an API key."""
    ledger = str(Path(sys.executable).with_name("ledger"))
    data_dir, port = folder / "data", limits.free_port()
    env = {"LEDGER_DATA_DIR": str(data_dir)}
    command = [ledger, "serve", "--port", str(port), "--workers", str(workers)]
    create = [ledger, "keys", "create", "--organization", ORGANIZATION, "--name", "bench"]
    create += ["--permission", "read", "write", "service_lines:manage"]
    with contextlib.ExitStack() as stack:
        ready = f"http://127.0.0.1:{port}/readyz"
        stack.enter_context(limits.serve(command, ready, folder / "ledger.log", env))
        key = subprocess.run(create, env=os.environ | env, stdout=subprocess.PIPE, check=True)
        url = os.environ.get("LEDGER_DATABASE_URL")
        if not url:
            url = stack.enter_context(running(data_dir, purpose="bench", announce=print)).url
        yield Product(port, key.stdout.decode().strip(), url)


# What a measurement is made of


@dataclass
class Bench:
    """The options, the running servers, and what earlier rows found out."""

    product: Product
    bare_port: int
    story: Story
    folder: Path
    seconds: float
    rounds: int
    clients: int
    workers: int
    ceiling: float = 0.0
    fact_rate: float = 0.0
    strained: Counter[int] = field(default_factory=Counter)  # rounds near the ceiling, by port

    def load(self, port: int, requests: list[list[bytes]], repeat: bool = True) -> loadgen.Result:
        """One measurement as fast as the server answers."""
        job = loadgen.Job(port, requests, self.seconds, WARM_UP, repeat)
        job.workers, job.gather = self.workers, GATHER
        return loadgen.run_load(job)

    def bare_rate(self) -> float:
        """Answers a second of ASGI without a framework: the generator's own ceiling."""
        requests = [[loadgen.request("GET", "/")]] * self.clients
        return self.load(self.bare_port, requests).rate

    def rate(
        self, port: int, requests: list[list[bytes]], status: int, repeat: bool = True
    ) -> float:
        """Answers a second, all of them with `status`, or the row is off.

        One near the ceiling is compared with a ceiling of this very moment before it counts as
        strained; a row with most rounds strained is void.
        """
        result = self.load(port, requests, repeat)
        if set(result.statuses) != {status} or result.refusal:
            found = f"answers {result.statuses}, not only {status}"
            raise UnmeasuredError(f"{found}; the first other: {result.refusal}")
        if result.rate > NEAR_CEILING * self.ceiling:
            self.ceiling = max(self.ceiling, self.bare_rate())
        if result.cpu_share > NEAR_CEILING or result.rate > NEAR_CEILING * self.ceiling:
            self.strained[port] += 1
        return result.rate

    def fact_requests(self, per_second: float = SUPPLY) -> list[list[bytes]]:
        """Single facts for one measurement, a run's on one connection so that they keep order."""
        count = int(per_second * (self.seconds + WARM_UP) / self.clients) + 8
        streams = [itertools.islice(self.story.work(), count) for _ in range(self.clients)]
        return [[self.product.post(fact) for fact in stream] for stream in streams]

    def measure_facts(self) -> float:
        """Single facts a second."""
        return self.rate(self.product.port, self.fact_requests(), 201, repeat=False)


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
    """Measure each in turn, `rounds` times, every other round backwards; its values for each."""
    values: list[list[float]] = [[] for _ in measures]
    for number in range(rounds):
        order = list(zip(measures, values, strict=True))
        for measure, found in order if number % 2 == 0 else reversed(order):
            found.append(measure())
    return values


def median_ratio(ours: Sequence[float], limit: Sequence[float]) -> float:
    """The median of the rounds' own ratios."""
    return statistics.median(one / other for one, other in zip(ours, limit, strict=True))


def compared(
    work: str, at_least: float, ours: Sequence[float], limit: Sequence[float], note: str
) -> Row:
    """The row of rates measured in the same rounds."""
    ratio, mine, theirs = (
        median_ratio(ours, limit),
        statistics.median(ours),
        statistics.median(limit),
    )
    return Row(work, mine, theirs, ratio, f"{at_least}", ratio / at_least, note)


# The rows


def ceiling(bench: Bench) -> Row:
    """What the generator itself reaches, against ASGI without a framework."""
    bench.ceiling = max(bench.bare_rate() for _ in range(min(bench.rounds, 3)))
    note = f"{bench.clients} clients, {bench.workers} workers; near it a row is void"
    return Row("ceiling: bare ASGI, requests/s", bench.ceiling, note=note)


def facts(bench: Bench) -> Row:
    """Facts one per request beside a FastAPI route that only parses them."""
    same = [
        bench.product.post(fact, path="/fact") for fact in itertools.islice(bench.story.work(), 400)
    ]
    with limits.serve_limit("app", bench.workers, bench.folder) as port:
        ours, limit = interleave(
            bench.rounds,
            bench.measure_facts,
            lambda: bench.rate(port, [same] * bench.clients, 201),
        )
    bench.fact_rate = statistics.median(ours)
    note = f"{bench.clients} clients; limit: FastAPI that parses"
    return compared("facts, one per request, facts/s", 0.2, ours, limit, note)


def batches(bench: Bench) -> Row:
    """Facts in batches beside COPY of the same rows."""

    def bodies(count: int) -> list[bytes]:
        work = bench.story.work()
        return [batch_of(list(itertools.islice(work, BATCH))) for _ in range(count)]

    def ours() -> float:
        count = int(2 * SUPPLY * (bench.seconds + WARM_UP) / BATCH / BATCH_CLIENTS) + 1
        streams = [bodies(count) for _ in range(BATCH_CLIENTS)]
        requests = [[bench.product.post(body, MANY) for body in stream] for stream in streams]
        return BATCH * bench.rate(bench.product.port, requests, 200, repeat=False)

    client, work = Client(bench.product), bench.story.work()
    ends = [client.post_batch(list(itertools.islice(work, BATCH))) for _ in range(9)]
    with psycopg.connect(bench.product.database_url) as connection:
        batches = [
            [limits.read_rows(connection, *table) for table in rows_of_batch(low, high)]
            for low, high in itertools.pairwise(ends)
        ]

        def copied() -> float:
            taken = limits.copy_seconds(connection, batches, bench.seconds / 2)
            return BATCH / statistics.median(taken)

        limits.create_clones(connection, batches[0])
        try:
            mine, limit = interleave(bench.rounds, ours, copied)
        finally:
            connection.rollback()
            limits.drop_clones(connection)
    note = (
        f"{BATCH_CLIENTS} clients; limit: COPY into {', '.join(rows.table for rows in batches[0])}"
    )
    return compared(f"facts in batches of {BATCH:,}, facts/s", 0.08, mine, limit, note)


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
        ("ledger_events", EVENT, events),
        ("fact", FACT, reported),
        ("check_in", CHECK_IN, check_ins),
        ("run_key", RUN_KEY, keys),
    ]
    return [
        (f"ledger.{table}", tuple(columns.split()), f"SELECT {columns.replace(' ', ', ')} {rows}")
        for table, columns, rows in wanted
    ]


def read_row(bench: Bench, work: str, paths: Sequence[str], queries: list[limits.Query]) -> Row:
    """GETs beside what their parts allow: 1 / (1/A + 1/B).

    A is FastAPI answering constant bytes of that size, B the same SQL from bare psycopg.
    """
    client = Client(bench.product)
    size = int(statistics.median(len(client.get(path)[1]) for path in paths[:20]))
    gets = [bench.product.get(path) for path in paths]
    # Each connection begins somewhere else in the paths, as people do.
    starts = [17 * n % len(gets) for n in range(bench.clients)]
    requests = [gets[start:] + gets[:start] for start in starts]
    constant = [[bench.product.get(f"/bytes/{size}")]] * bench.clients
    job = limits.StatementJob(bench.product.database_url, queries, bench.clients, bench.seconds)
    with limits.serve_limit("app", bench.workers, bench.folder, [size]) as port:
        ours, route, query = interleave(
            bench.rounds,
            lambda: bench.rate(bench.product.port, requests, 200),
            lambda: bench.rate(port, constant, 200),
            lambda: limits.statement_rate(job, bench.workers),
        )
    limit = [1 / (1 / a + 1 / b) for a, b in zip(route, query, strict=True)]
    parts = f"A {statistics.median(route):,.0f}/s, B {statistics.median(query):,.0f}/s"
    return compared(work, 0.5, ours, limit, f"{size:,} bytes; {parts}")


def lists(bench: Bench) -> Row:
    """Pages of 25 lines, the first eight in turn."""
    client, paths, queries = Client(bench.product), [], []
    cursor = ""
    after: dict[str, object] = {}
    for _ in range(8):
        paths.append(f"/v1/execution?limit={PAGE}{cursor}")
        statement = reading.list_statement(frozenset({"organization", *after}))
        queries.append((statement, {**tenant_and_clock(), "limit": PAGE + 1, **after}))
        answer = json.loads(client.get(paths[-1])[1])
        if not answer["meta"]["has_more"]:
            break
        cursor = f"&cursor={answer['meta']['cursor']}"
        after = {"after": sort_key(answer["data"][-1]["id"])}
    return read_row(bench, f"list of {PAGE}, requests/s", paths, queries)


def detail(bench: Bench) -> Row:
    """One line, another one each time."""
    numbers = range(1, bench.story.lines + 1, max(1, bench.story.lines // 200))
    ids = [line_id(number) for number in numbers]
    statement = reading.detail_statement(frozenset({"organization"}))
    queries = [(statement, {**tenant_and_clock(), "line_id": line}) for line in ids]
    return read_row(bench, "detail, requests/s", [f"/v1/execution/{line}" for line in ids], queries)


def tenant_and_clock() -> dict[str, object]:
    """What the edge binds in every read of lines."""
    now = datetime.now(UTC)
    return {"organization": ORGANIZATION, "today": day_of(now), "week": week_of(now)}


def visible(bench: Bench) -> Row:
    """How long a write takes until every read sees it, under half load, beside one fsync.

    A write is answered once the views have it, so its own time is an upper bound; a probe looks
    whether that holds.
    """
    half = (bench.fact_rate or bench.measure_facts()) / 2
    shown: list[float] = []
    stale: list[bool] = []

    def under_half_load() -> float:
        job = loadgen.Job(bench.product.port, bench.fact_requests(half), bench.seconds, WARM_UP)
        job.rate, job.workers = half, bench.workers
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(loadgen.run_load, job)
            probe_visibility(bench, shown, stale, load.done)
            result = load.result()
        if set(result.statuses) != {201} or result.refusal:
            raise UnmeasuredError(f"answers {result.statuses}: {result.refusal}")
        return result.p99_ms

    def commit() -> float:
        return 1e3 * limits.commit_seconds(bench.product.database_url, bench.seconds / 5)

    ours, fsync = interleave(bench.rounds, under_half_load, commit)
    ratio, slowest = median_ratio(ours, fsync), statistics.median(ours)
    p50, p99 = (loadgen.percentile(sorted(shown), share) for share in (0.5, 0.99))
    seen = f"a GET shows it {p50:.1f} ms after the answer, p99 {p99:.1f}"
    note = f"{half:,.0f} facts/s; {seen}; {sum(stale)} of {len(shown)} first GETs did not"
    reached = max(30 / ratio, 15 / slowest)
    work, bound = "commit to visible, p99 ms at half load", "≤ 30 or 15 ms"
    return Row(work, slowest, statistics.median(fsync), ratio, bound, reached, note)


def probe_visibility(
    bench: Bench, shown: list[float], stale: list[bool], over: Callable[[], bool]
) -> None:
    """Report a check-in, ask for its line until the answer is as late; note how long that took."""
    client = Client(bench.product)
    for number in itertools.cycle(range(1, bench.story.lines + 1)):
        if over():
            return
        line = line_id(number)
        position, _ = client.post(bench.story.fact("execution.checked_in", line, hours=0.25))
        answered = time.perf_counter()
        asked = 1
        while client.get(f"/v1/execution/{line}")[0] < position:
            asked += 1
            if time.perf_counter() - answered > 5:
                raise UnmeasuredError(f"position {position} was not visible after 5 s")
        shown.append((time.perf_counter() - answered) * 1e3)
        stale.append(asked > 1)


ROWS: dict[str, Callable[[Bench], Row]] = {
    "facts": facts,
    "batches": batches,
    "list": lists,
    "detail": detail,
    "visible": visible,
}


# The command


def load_lines(bench: Bench) -> None:
    """Put the lines in, in batches of whole lines; look at one outcome, and at the count."""
    client, story = Client(bench.product), bench.story

    def batch(numbers: Sequence[int]) -> list[bytes]:
        return [fact for number in numbers for fact in story.beginning(number)]

    every = range(1, story.lines + 1)
    parts = [every[at : at + LINES_A_BATCH] for at in range(0, len(every), LINES_A_BATCH)]
    client.post_batch(batch(parts[0]))
    for at in range(1, len(parts), 40):
        posts = [bench.product.post(batch_of(batch(part)), MANY) for part in parts[at : at + 40]]
        shares = [share for n in range(BATCH_CLIENTS) if (share := posts[n::BATCH_CLIENTS])]
        loadgen.run_load(loadgen.Job(bench.product.port, shares))
    total = json.loads(client.get("/v1/execution/summary")[1])["data"]["total"]
    if total < story.lines:
        raise UnmeasuredError(f"only {total} of {story.lines} lines are there")


def measure(bench: Bench, names: Sequence[str]) -> Iterator[Row]:
    """The ceiling, then each named row; one that cannot be measured is void, and says why."""
    yield ceiling(bench)
    for name in names:
        bench.strained.clear()
        try:
            row = ROWS[name](bench)
            strained = max(bench.strained.values(), default=0)
            if strained > bench.rounds / 2:
                row.void = f"the load generator was the limit in {strained} rounds"
        except (UnmeasuredError, RuntimeError, OSError, psycopg.Error) as error:
            row = Row(name, 0.0, void=f"not measured: {' '.join(str(error).split())}")
        yield row


def cells(row: Row) -> str:
    """One row as a line of a Markdown table."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2f}"

    figures = " | ".join(number(value) for value in (row.ours, row.limit, row.ratio))
    note = f"VOID: {row.void}" if row.void else row.note
    return f"| {row.work} | {figures} | {row.bound} | {note} |"


def machine(product: Product) -> dict[str, str]:
    """What the figures were measured on; without fsync they would say nothing."""
    about = {"cores": str(os.cpu_count()), "python": platform.python_version()}
    with psycopg.connect(product.database_url) as connection:
        for name in ("server_version", *DURABLE):
            about[name] = str((connection.execute(f"SHOW {name}").fetchone() or [""])[0])
    if any(about[name] != "on" for name in DURABLE):
        raise SystemExit(f"PostgreSQL is not durable here: {about}")
    return about


def run(asked: argparse.Namespace) -> list[Row]:
    """Start everything, load the lines, measure and print."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ledger-bench-")))
        folder.chmod(0o755)  # as root, PostgreSQL runs as somebody else, who must get in
        product = stack.enter_context(serve_product(asked.workers, folder))
        bare = stack.enter_context(limits.serve_limit("bare", asked.workers, folder))
        story = Story(asked.lines, asked.mix)
        bench = Bench(
            product, bare, story, folder, asked.seconds, asked.rounds, asked.clients, asked.workers
        )
        about = machine(product) | {"lines": str(asked.lines), "mix": asked.mix}
        load_lines(bench)
        if not asked.json:
            print(", ".join(f"{name} {value}" for name, value in about.items()), end="\n\n")
            print("| work | ours | limit | ratio | at least | |\n|---|--:|--:|--:|--:|---|")
        rows = []
        for row in measure(bench, asked.rows or list(ROWS)):
            rows.append(row)
            if not asked.json:
                print(cells(row), flush=True)
    if asked.json:
        print(json.dumps({"machine": about, "rows": [asdict(row) for row in rows]}))
    return rows


def main() -> int:
    """Read the options, measure, judge; `--short` changes only what was not given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(ROWS)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], metavar="ROW", help=names)
    parser.add_argument("--seconds", type=float, help="of each round (1.2)")
    parser.add_argument("--rounds", type=int, help="of each row (5)")
    parser.add_argument("--lines", type=int, help="service lines loaded first (2000)")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--mix", choices=("mixed", "check_ins"), default="mixed")
    parser.add_argument("--short", action="store_true", help="200 lines, 3 rounds of 0.5 s")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    asked = parser.parse_args()
    asked.seconds = asked.seconds or (0.5 if asked.short else 1.2)
    asked.rounds = asked.rounds or (3 if asked.short else 5)
    asked.lines = asked.lines or (200 if asked.short else 2_000)
    needed = 0.5 if asked.short else 1.0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end too
    rows = run(asked)
    missed = [row for row in rows if row.void or (row.reached is not None and row.reached < needed)]
    for row in missed:
        print(f"under {needed:.0%} of its bound, or void: {row.work}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
