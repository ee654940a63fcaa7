"""The observer of a writer. That of the API and of the loops counts its work (``metrics.py``).

A short command takes no notice: loading the library of metrics would take longer than its work.
"""

from collections.abc import Sequence

from ledger.application.command import Command
from ledger.intake.request import Outcome


class Observer:
    """Takes no notice."""

    def note_waiting(self, commands: int) -> None:
        """So many commands wait for their append now."""

    def note_lock(self, seconds: float) -> None:
        """An append has the lock and its first reads, so long after its begin."""

    def note_append(self, seconds: float, commands: int) -> None:
        """An append has committed, so long after its begin; it decided so many commands."""

    def note_outcomes(self, commands: Sequence[Command], outcomes: Sequence[Outcome]) -> None:
        """The first of these commands have these outcomes."""
