"""The row about the cost of logging: single facts with JSON and access log, and without.

Two copies of the data set are served at once and measured in turn. The ratio is of CPU time, which
does not depend on other work of the machine.
"""

import dataclasses
import statistics

from cost import Cost, of_singles
from cost_rows import SINGLES
from measure import Bench, Row, compared, interleave
from product import serving
from story import Story

LOGGING = {"LEDGER_LOG_FORMAT": "json", "LEDGER_ACCESS_LOG": "true"}
AT_LEAST = 0.95  # of the facts that the same CPU time records without a log


def logs(bench: Bench) -> Row:
    """Facts per second of CPU time, with the log and without."""
    data_dir, lines = bench.folder / "logging", bench.data.population
    bench.data.copy_to(data_dir)
    log = bench.folder / "logging.log"
    with serving(data_dir, bench.data.key, bench.workers, log, settings=LOGGING) as product:
        story = Story(lines.numbers_at_work(), lines.numbers_at_work(with_runs=True))
        logging = dataclasses.replace(bench, product=product, story=story)

        def measured(one: Bench) -> Cost:
            return of_singles(one, bench.clients, SINGLES)

        logged, plain = interleave(bench.rounds, lambda: measured(logging), lambda: measured(bench))
    ours, limit = ([1e6 / cost.cpu for cost in rounds] for rounds in (logged, plain))
    rates = (statistics.median(cost.rate for cost in rounds) for rounds in (logged, plain))
    note = "{:,.0f} facts/s, {:,.0f} without a log".format(*rates)
    work = "facts with JSON and access log beside none, facts for a second of CPU"
    return compared(work, AT_LEAST, ours, limit, note)
