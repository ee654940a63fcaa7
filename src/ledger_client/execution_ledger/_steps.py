"""The open runs of a framework's steps. Extras begin and end them by the framework's ids."""

from __future__ import annotations

from execution_ledger._async.client import AsyncLedger
from execution_ledger._sync.client import Ledger
from execution_ledger.run import OpenRun

MAX_ACTOR = 200


class Steps:
    """The open runs of one line. Steps may begin and end in any order, and in any thread."""

    def __init__(
        self, ledger: Ledger | AsyncLedger, line: str, lease: int | None, tells_errors: bool
    ) -> None:
        self._ledger, self._line = ledger, line
        self._lease, self._tells_errors = lease, tells_errors
        self._open: dict[str, OpenRun] = {}

    def begin(self, step: object, parent: object, actor: str | None) -> None:
        """Begin the run of a step. Its parent defaults to the run of the calling function."""
        actor_id = "".join(filter(str.isprintable, actor or ""))[:MAX_ACTOR].strip()
        self._open[str(step)] = self._ledger.run(
            self._line,
            name=str(step),
            parent=None if parent is None else str(parent),
            lease=self._lease,
            triggered_by={"type": "agent"} | ({"actor_id": actor_id} if actor_id else {}),
            tells_errors=self._tells_errors,
        ).begin()

    def get(self, step: object) -> OpenRun | None:
        """The run of a step, or None if it is not open."""
        return self._open.get(str(step))

    def end(self, step: object, error: BaseException | None) -> None:
        """End the run of a step; ``error`` decides how."""
        run = self._open.pop(str(step), None)
        if run is not None:
            run.end(error)
