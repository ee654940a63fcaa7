"""Our views. A projection is one folder here (``view.py``, ``statements.py``) and a line below."""

from ledger.views.contract import Projection
from projections.event.view import EventView
from projections.execution.view import ExecutionView
from projections.run.view import RunView
from projections.webhook.view import WebhookView


def projections() -> tuple[Projection, ...]:
    """Fresh instances of every projection: each projector keeps rows of its own in memory."""
    return (ExecutionView(), RunView(), EventView(), WebhookView())
