"""The projections: each is a folder here (``view.py``, ``statements.py``) and is named below."""

from ledger.engine.views.contract import Projection
from projections.directory.search.view import SearchView
from projections.directory.view import DirectoryView
from projections.feed.view import EventView
from projections.lines.view import ExecutionView
from projections.runs.view import RunView
from projections.usage.view import StatementView
from projections.watches.source.view import SourceView
from projections.watches.view import WatchView
from projections.webhooks.view import WebhookView


def projections() -> tuple[Projection, ...]:
    """New instances of every projection: each projector keeps rows of its own in memory."""
    return (
        ExecutionView(),
        RunView(),
        EventView(),
        WebhookView(),
        DirectoryView(),
        SearchView(),
        StatementView(),
        WatchView(),
        SourceView(),
    )
