"""The log for the rest of the ledger: the eventsourcing library's application with our recorder."""

from collections.abc import Mapping

from eventsourcing.application import Application
from eventsourcing.persistence import Mapper

from ledger.log.codec import EnvelopeMapper
from ledger.log.recorder import LedgerRecorder, library_environment


class Log(Application[str]):
    """The log of a process. ``ledger_recorder.append_transaction`` appends; ``codec`` maps events.

    The events table is ``ledger.ledger_events``: the name follows from ``name``, the schema from
    the environment.
    """

    name = "ledger"

    def __init__(self, conninfo: str, **overrides: str) -> None:
        environment: Mapping[str, str] = {**library_environment(conninfo), **overrides}
        super().__init__(env=environment)
        if not isinstance(self.recorder, LedgerRecorder):
            raise AssertionError("the log needs the ledger's own recorder")
        self.ledger_recorder = self.recorder

    def construct_mapper(self) -> Mapper[str]:
        """Return our codec in place of the library's mapper and transcoder."""
        self.codec = EnvelopeMapper()
        return self.codec
