"""The writer of a node: of its only worker, or in a process of its own for several workers.

Short commands do without this module: it loads the views and the library of metrics.
"""

from collections.abc import Callable

from ledger.app.composition.metrics import WriterMetrics
from ledger.app.composition.writing import Clock, create_writer, utc_now
from ledger.app.features import projections
from ledger.app.settings import Settings
from ledger.engine.log.event_log import Log
from ledger.engine.views.inline import InlineViews
from ledger.engine.writer.writer import Writer


def create_node_writer(
    settings: Settings,
    conninfo: str,
    clock: Clock = utc_now,
    create: Callable[..., Writer] = Writer,
) -> Writer:
    """The writer of a node. It finds out if it can write, and small appends move the views."""
    log = Log(conninfo)
    return create_writer(
        settings,
        log,
        clock,
        probes=True,
        is_apart=False,
        observer=WriterMetrics(),
        create=create,
        views=InlineViews(projections(), log.codec),
    )
