"""The parts of a measurement: the servers, their loads, and the resulting row."""

import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import loadgen
from dataset import DataSet
from line_requests import Asker
from product import Product, UnmeasuredError
from story import Story

WARM_UP = 0.3
GATHER = 0.0002  # for rates: the generator checks for answers every 0.2 ms
SUPPLY = 16_000  # facts encoded per second of measurement: more than any row reaches
NEAR_CEILING = 0.8  # of the ceiling, or of one core: from here on the generator is the limit
LONG = 3  # rounds at most of rows that take long


@dataclass
class Bench:
    """The options, the running servers, and the figures of earlier rows."""

    product: Product
    data: DataSet
    bare_port: int
    story: Story
    asker: Asker
    folder: Path
    seconds: float
    rounds: int
    clients: int
    workers: int
    short: bool
    imported: int  # facts in the file that is imported
    ceiling: float = 0.0
    fact_rate: float = 0.0
    strained: Counter[int] = field(default_factory=Counter)  # rounds near the ceiling, by port

    @property
    def few_rounds(self) -> int:
        """The rounds of rows with several measurements in each round."""
        return min(self.rounds, LONG)

    def load(self, port: int, requests: list[list[bytes]], repeat: bool = True) -> loadgen.Result:
        """Measure once, as fast as the server answers."""
        job = loadgen.Job(port, requests, self.seconds, WARM_UP, repeat)
        job.workers, job.gather = self.workers, GATHER
        return loadgen.run_load(job)

    def bare_rate(self) -> float:
        """Answers per second of ASGI without a framework: the generator's own ceiling."""
        requests = [[loadgen.request("GET", "/")]] * self.clients
        return self.load(self.bare_port, requests).rate

    def rate(
        self, port: int, requests: list[list[bytes]], status: int, repeat: bool = True
    ) -> float:
        """Answers per second. Raises UnmeasuredError unless all answers have `status`.

        Before a round near the ceiling counts as strained, the ceiling is measured again. A row
        with most rounds strained is void.
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

    def gets(self, paths: Sequence[str], product: Product | None = None) -> float:
        """GETs per second. The connections share the paths; of few paths, each gets all."""
        product = product or self.product
        gets = [product.get(path) for path in paths]
        if len(gets) < self.clients:
            shares = [gets[n % len(gets) :] + gets[: n % len(gets)] for n in range(self.clients)]
        else:
            shares = [gets[n :: self.clients] for n in range(self.clients)]
        return self.rate(product.port, shares, 200)

    def fact_requests(self, per_second: float = SUPPLY) -> list[list[bytes]]:
        """Single facts for one measurement. A run's facts keep their order on one connection."""
        count = int(per_second * (self.seconds + WARM_UP) / self.clients) + 8
        streams = [itertools.islice(self.story.work(), count) for _ in range(self.clients)]
        return [[self.product.post(fact) for fact in stream] for stream in streams]

    def measure_facts(self) -> float:
        """Single facts per second."""
        return self.rate(self.product.port, self.fact_requests(), 201, repeat=False)


@dataclass
class Row:
    """One line of the table."""

    work: str
    ours: float
    limit: float | None = None
    ratio: float | None = None
    bound: str = ""
    reached: float | None = None  # share of the bound: 1 just meets it, 0.5 is half of it
    note: str = ""
    void: str = ""  # why the figure is meaningless


@dataclass(frozen=True)
class Figure:
    """A figure of two versions, and the bound of the new one's beside the old one's."""

    label: str
    is_cost: bool = False
    """Less is better."""
    bound: float | None = None
    of_new: bool = False
    """The bound is that of the new figure itself, not of the ratio."""

    def reached(self, new: float, ratio: float) -> float | None:
        """The share of the bound: 1 just meets it, 0.5 is half of it."""
        if self.bound is None:
            return None
        found = new if self.of_new else ratio
        return self.bound / found if self.is_cost else found / self.bound

    def __str__(self) -> str:
        """The bound as text."""
        if self.bound is None:
            return ""
        return f"{'≤' if self.is_cost else '≥'} {self.bound:g}{', itself' if self.of_new else ''}"


@dataclass(frozen=True)
class Work:
    """A measurement of one version in one round, and the figures that it returns."""

    figures: Sequence[Figure]
    measure: Callable[[Bench], Sequence[float]]
    most_rounds: int | None = None
    writes: bool = False
    """Seal the log before measuring the other version, so that no work is left over."""


def number(value: float | None) -> str:
    """A figure in a cell of a table."""
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def interleave(rounds: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Measure each in turn, `rounds` times, every other round backwards; return all values."""
    values: list[list[float]] = [[] for _ in measures]
    for number in range(rounds):
        order = list(zip(measures, values, strict=True))
        for measure, found in order if number % 2 == 0 else reversed(order):
            found.append(measure())
    return values


def median_ratio(ours: Sequence[float], limit: Sequence[float]) -> float:
    return statistics.median(mine / theirs for mine, theirs in zip(ours, limit, strict=True))


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


def at_most(work: str, ours: float, most: float, unit: str, note: str) -> Row:
    """The row of a figure with a fixed upper bound, and no measured limit."""
    return Row(
        work, ours, bound=f"≤ {most:g} {unit}", reached=most / ours if ours else 1, note=note
    )
