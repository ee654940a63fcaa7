"""The views, and the projector that keeps them up to date."""

from collections.abc import Sequence

from ledger.log.codec import EnvelopeMapper
from ledger.views.contract import Projection
from ledger.views.projector import Projector
from projections import projections


def create_projector(conninfo: str) -> Projector:
    """The projector over all views."""
    return Projector(conninfo, EnvelopeMapper(), projections())


def views_named(names: Sequence[str]) -> list[Projection]:
    """The named views, in the fixed order of all views; all views if no name is given."""
    return [view for view in projections() if not names or view.name in names]
