"""Our views. A projection is one file here with its ``.sql`` beside it, and one line below."""

from ledger.projection.contract import Projection
from projections.event import EventView
from projections.execution import ExecutionView
from projections.run import RunView
from projections.webhook import WebhookView


def projections() -> tuple[Projection, ...]:
    """Fresh instances of every projection: each projector keeps rows of its own in memory."""
    return (ExecutionView(), RunView(), EventView(), WebhookView())
