"""Repeated faults: told at once, then at most once a minute, and when they are over."""

import io
import logging
import re
from itertools import pairwise

import psycopg
import pytest

from ledger.engine.telemetry.repetitions import Repetitions


class Said:
    """A logger whose lines pass through ``Repetitions``, with a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.out = io.StringIO()
        stream = logging.StreamHandler(self.out)
        self.repetitions = Repetitions(stream, lambda: self.now)
        self.logger = logging.Logger("test")
        self.logger.addHandler(self.repetitions)

    def lines(self) -> list[str]:
        """The lines since the last call."""
        lines = self.out.getvalue().splitlines()
        self.out.seek(0)
        self.out.truncate()
        return lines

    def fail(self, text: str = "connection refused") -> None:
        self.logger.warning("an append failed: %s", psycopg.OperationalError(text))

    def pass_(self, seconds: float) -> None:
        """Let time pass, and check each second for what is due."""
        for _ in range(int(seconds)):
            self.now += 1.0
            self.repetitions.tell_due()


@pytest.fixture
def said() -> Said:
    return Said()


def test_a_fault_is_told_at_once(said: Said) -> None:
    said.fail()
    assert said.lines() == ["an append failed: connection refused"]


def test_a_lasting_fault_is_told_once_a_minute_with_the_number_of_repetitions(said: Said) -> None:
    for _ in range(150):
        said.fail()
        said.pass_(1)
    first, *more = said.lines()
    assert first == "an append failed: connection refused"
    assert [re.sub(r"\d\d:\d\d:\d\d", "T", line) for line in more] == [
        "an append failed: connection refused (repetitions since T: 59)",
        "an append failed: connection refused (repetitions since T: 60)",
    ]


def test_a_fault_that_is_over_is_told_once_more_and_then_forgotten(said: Said) -> None:
    for text in ("the connection is lost", "connection refused", "starting up"):
        said.fail(text)
    said.lines()
    said.pass_(60)
    (again,) = said.lines()
    assert again.startswith("an append failed: starting up (repetitions since ")
    assert again.endswith(": 2)")
    said.pass_(60)
    (over,) = said.lines()
    assert over.startswith("over since ")
    assert "an append failed: starting up (times since " in over
    assert over.endswith(": 3)")
    said.pass_(600)
    assert said.lines() == []
    said.fail()
    assert said.lines() == ["an append failed: connection refused"]


def test_a_fault_that_happened_once_is_not_told_again(said: Said) -> None:
    said.fail()
    said.lines()
    said.pass_(600)
    assert said.lines() == []


@pytest.mark.parametrize("pause", [1, 7, 30, 59, 61, 90, 119, 121])
def test_a_fault_never_leaves_two_lines_within_a_minute(said: Said, pause: int) -> None:
    """Also if it ends and begins again: each line, also that of its end, counts."""
    told: list[float] = []
    for _ in range(40 + 300 // pause):
        said.fail()
        told += [said.now] * len(said.lines())
        for _ in range(pause):
            said.pass_(1)
            told += [said.now] * len(said.lines())
    assert len(told) > 3
    assert min(later - earlier for earlier, later in pairwise(told)) >= 60


def test_faults_of_different_names_are_told_apart_and_errors_and_numbers_are_not(
    said: Said,
) -> None:
    for name in ("sweeper", "leases"):
        for number in (1, 2):
            said.logger.warning("%s: round %d postponed: %s", name, number, OSError(str(number)))
    assert said.lines() == ["sweeper: round 1 postponed: 1", "leases: round 1 postponed: 1"]


def test_a_fault_whose_error_is_told_as_a_sentence_is_one_fault(said: Said) -> None:
    for error in ("the connection is lost", "connection refused: is it running?"):
        said.logger.warning("beat: %s", f"what was sealed cannot be followed: {error}")
    assert said.lines() == ["beat: what was sealed cannot be followed: the connection is lost"]


def test_bugs_of_different_requests_are_each_told_with_their_traceback(said: Said) -> None:
    for request in ("a", "b"):
        try:
            raise ValueError(request)
        except ValueError:
            said.logger.exception("request %s could not be answered", request)
    lines = said.lines()
    assert [line for line in lines if line.startswith("ValueError")] == [
        "ValueError: a",
        "ValueError: b",
    ]


def test_a_process_that_is_started_again_tells_no_fault_that_its_predecessor_just_told(
    said: Said,
) -> None:
    said.fail()
    assert len(said.lines()) == 1
    for _ in range(3):
        said.repetitions.inherit()
        said.now += 10
        said.fail("starting up")
    assert said.lines() == []
    said.now += 30
    said.repetitions.tell_due()
    (again,) = said.lines()
    assert again.startswith("an append failed: starting up (repetitions since ")


def test_memory_is_bounded_when_each_line_has_a_name_of_its_own(said: Said) -> None:
    for number in range(5_000):
        said.logger.warning("request %s could not be answered", str(number))
    assert len(said.lines()) == 5_000, "no line is lost"
    assert len(said.repetitions._faults) == 1_000
    said.pass_(60)
    assert said.repetitions._faults == {}
