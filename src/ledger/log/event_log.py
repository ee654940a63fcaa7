"""The log as the rest of the ledger sees it: the library's application over our recorder."""

from collections.abc import Mapping

from eventsourcing.application import Application
from eventsourcing.persistence import Mapper

from ledger.log.codec import EnvelopeMapper
from ledger.log.recorder import LedgerRecorder, library_environment


class Log(Application[str]):
    """One per process. ``ledger_recorder.append_transaction`` appends; ``codec`` maps events.

    The events table is ``ledger.ledger_events``: schema and name come from here.
    """

    name = "ledger"

    def __init__(self, conninfo: str, **overrides: str) -> None:
        environment: Mapping[str, str] = {**library_environment(conninfo), **overrides}
        super().__init__(env=environment)
        if not isinstance(self.recorder, LedgerRecorder):
            raise AssertionError("the log needs the ledger's own recorder")
        self.ledger_recorder = self.recorder

    def construct_mapper(self) -> Mapper[str]:
        """Our codec instead of the library's transcoder."""
        self.codec = EnvelopeMapper()
        return self.codec
