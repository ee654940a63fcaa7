"""A periodic loop goes on after a round that fails, whatever the error."""

import threading
from typing import Any

import psycopg
import pytest

from ledger.application.periodic import Periodic
from ledger.domain.errors import Unavailable


class Stumbling(Periodic):
    """A loop whose first round fails."""

    def __init__(self, conninfo: str, error: Exception) -> None:
        super().__init__(conninfo, "stumbling", 1_234_567, 0.01)
        self._errors = [error]
        self.went_on = threading.Event()

    def work(self, connection: psycopg.Connection[Any]) -> tuple[int, bool]:
        if self._errors:
            raise self._errors.pop()
        assert connection.execute("SELECT 1").fetchone() == (1,)
        self.went_on.set()
        return 0, False


@pytest.mark.parametrize(
    "error", [OverflowError("date"), KeyError("bug"), Unavailable("busy"), psycopg.Error("lost")]
)
def test_the_loop_goes_on_after_a_round_that_fails(conninfo: str, error: Exception) -> None:
    loop = Stumbling(conninfo, error)
    loop.start()
    try:
        assert loop.went_on.wait(10)
    finally:
        loop.stop()
