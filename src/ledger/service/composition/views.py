"""The views, and the projector that keeps them up to date."""

from collections.abc import Sequence

import psycopg
from psycopg.rows import tuple_row

from ledger.log.codec import EnvelopeMapper
from ledger.reads.versions import Versions
from ledger.views.contract import Projection
from ledger.views.projector import Projector
from ledger.views.shadow import live_generations
from projections import projections


def create_projector(conninfo: str) -> Projector:
    """The projector over all views."""
    return Projector(conninfo, EnvelopeMapper(), projections())


def versions_of_views(reading: str) -> Versions:
    """The views that a process of this code may read.

    ``reading`` is the connection string of reads. The database is asked if it has a view of another
    version.
    """

    def find_unfit() -> frozenset[str]:
        with psycopg.connect(reading, autocommit=True, row_factory=tuple_row) as connection:
            fit = {view.name for view, _ in live_generations(connection, projections())}
        return frozenset(view.name for view in projections()) - fit

    return Versions({view.name: view.version for view in projections()}, find_unfit)


def views_named(names: Sequence[str]) -> list[Projection]:
    """The named views, in the fixed order of all views; all views if no name is given."""
    return [view for view in projections() if not names or view.name in names]
