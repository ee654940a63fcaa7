"""The beat of a node: its row each second, with its witness (contract, Several nodes).

The node follows: it takes the database's newest checkpoint as its witness, once that checkpoint
provably continues the witness that it has.
"""

import logging
from collections.abc import Callable
from datetime import datetime

from ledger import __version__
from ledger.engine.postgres.leadership import LeadBeat
from ledger.features.proof.sealing import shelf
from ledger.features.proof.sealing.growth import compare_with_tree
from ledger.features.proof.sealing.note import BadNote
from ledger.features.proof.sealing.peers import LogConsistency, Verdict, Witnessed, judge
from ledger.features.proof.sealing.watch import CannotSign, Inspection, WitnessWatch

_logger = logging.getLogger(__name__)

_DOUBLED = "another process beats as this node: its data directory is shared, or was copied"


class NodeBeat(LeadBeat):
    """Reports this node each second, and beats for the loops that its process leads."""

    # A witness lies in a file, too. A living node must not fall silent while a synchronous standby
    # is away. An acknowledged beat is on this disk.
    commits = "local"

    def __init__(
        self, conninfo: str, watch: WitnessWatch, role: str, clock: Callable[[], datetime]
    ) -> None:
        super().__init__(conninfo)
        self._watch, self._role, self._clock = watch, role, clock

    def beat(self, connection: shelf.Connection) -> str | None:
        """Follow and report; return why the node cannot follow, or None."""
        with connection.transaction():  # one commit a second
            super().beat(connection)
            inspection, settles, fault = None, False, None
            try:
                inspection = self._watch.inspect(connection, leads=False)
            except (CannotSign, BadNote) as error:
                fault = _fault_of(error)
            else:
                verdict, fault = self._follow(connection, inspection)
                settles = verdict.settles
            beaten = self._watch.beat(connection, inspection, settles, __version__, self._role)
        self._watch.note_beaten(*beaten)
        return fault

    def _follow(
        self, connection: shelf.Connection, inspection: Inspection
    ) -> tuple[Verdict, str | None]:
        """Take the database's newest checkpoint if it fits; return the verdict and a fault."""
        fault = _DOUBLED if inspection.evidence.reports.is_doubled else None

        def compare(witness: Witnessed) -> LogConsistency:
            nonlocal fault
            try:
                return compare_with_tree(connection, inspection.newest, witness)
            except CannotSign as error:
                fault = _fault_of(error)
                return LogConsistency.UNKNOWN

        verdict = judge(inspection.evidence, compare)
        if verdict.contradicted is not None and inspection.state.has_signed:
            witness, fit = verdict.contradicted
            why = fit.value
            if witness.size:
                why += f": {witness.size} events ({witness.where})"
            if shelf.contradict(connection, inspection.state.vkey, self._clock(), why):
                _logger.error("sealer: nothing is signed any more: %s", why)
        if verdict.advances:
            self._watch.follow(inspection)
        return verdict, fault


def _fault_of(error: Exception) -> str:
    return f"what was sealed cannot be followed: {error}"
