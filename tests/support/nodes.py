"""Two nodes of one ledger: real services on one database, each with a data directory of its own."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.support.data_dirs import MASTER_KEY
from tests.support.served import Served, free_port
from tests.support.views import query, until

LOOPS = {
    "projector", "sweeper", "leases", "housekeeper", "watches", "dispatcher", "sealer",
    "verification",
}  # fmt: skip
"""The loops that have a leader for as long as any node runs."""

# The loops, each with the node that leads it: whose session holds an advisory lock.
_LEADERS = """
SELECT l.loop, l.node_id FROM ledger.leader AS l
WHERE EXISTS (SELECT FROM pg_locks AS k JOIN pg_stat_activity AS a USING (pid)
              WHERE k.locktype = 'advisory' AND k.granted AND k.pid = l.pid
                AND a.datname = current_database())
"""


def leaders(conninfo: str) -> dict[str, str]:
    """The node that leads each loop now."""
    return dict(query(conninfo, _LEADERS))


def node_id(served: Served) -> str:
    """The id of a node, by its data directory."""
    return (served.data_dir / "node").read_text().strip()


@contextlib.contextmanager
def two_nodes(
    conninfo: str, folder: Path, roles: tuple[str, str] = ("all", "all"), **environment: str
) -> Iterator[tuple[Served, Served]]:
    """Two nodes; the first leads every loop that its role lets it lead."""
    environment |= {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    with contextlib.ExitStack() as stack:
        first, second = (
            stack.enter_context(_joined(conninfo, folder / name, role, environment))
            for name, role in zip(("a", "b"), roles, strict=True)
        )
        yield first, second


@contextlib.contextmanager
def _joined(
    conninfo: str, data_dir: Path, role: str, environment: dict[str, str]
) -> Iterator[Served]:
    with Served(data_dir, free_port(), workers=1, role=role, **environment) as served:
        if role != "api":
            until(lambda: leaders(conninfo).keys() >= LOOPS, "the leaders")
        yield served


@contextlib.contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """Processes that are stopped until the block ends."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
