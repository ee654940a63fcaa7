"""The appends that the projector hears of: under load several of them share a round."""

import time

from ledger.postgres.pipeline import Pipeline

_IDLE_SECONDS = 0.25
"""The time after which the log is read without a notification, since one may be lost."""

_GATHER_SECONDS = 0.006
_QUIET_SECONDS = 0.002
"""How long appends are gathered, and how long the next append is waited for.

A round costs about the same whatever its size: a dozen statements and a commit. The appends of
several processes take turns, and without a wait each would have a round of its own. So as many
appends are awaited as the last round took, and as came during that round. An append whose clients
all wait for its round comes alone, and is not delayed.
"""


class Appends:
    """Waits for appends on a pipeline that listens to ``ledger_events``."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._taken = 0
        """The number of appends that the last wait heard of, which the round took."""

    def wait(self) -> int:
        """Wait for an append, and for those that belong with it. Return how many were heard."""
        heard = self._pipeline.wait(0)
        together = self._taken + heard
        heard = heard or self._pipeline.wait(_IDLE_SECONDS)
        deadline = time.monotonic() + _GATHER_SECONDS
        while 0 < heard < together and time.monotonic() < deadline:
            more = self._pipeline.wait(_QUIET_SECONDS)
            if not more:
                break
            heard += more
        self._taken = heard
        return heard
