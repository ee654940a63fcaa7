"""Repeated faults: told at once, then at most once a minute, and when they are over."""

import io
import logging
import re
from itertools import pairwise

import psycopg
import pytest

from ledger.engine.telemetry.repetitions import Repetitions


class Logged:
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
def log() -> Logged:
    return Logged()


def test_a_fault_is_logged_at_once(log: Logged) -> None:
    log.fail()
    assert log.lines() == ["an append failed: connection refused"]


def test_a_lasting_fault_is_logged_once_a_minute_with_its_repetitions(log: Logged) -> None:
    for _ in range(150):
        log.fail()
        log.pass_(1)
    first, *more = log.lines()
    assert first == "an append failed: connection refused"
    assert [re.sub(r"\d\d:\d\d:\d\d", "T", line) for line in more] == [
        "an append failed: connection refused (repetitions since T: 59)",
        "an append failed: connection refused (repetitions since T: 60)",
    ]


def test_a_fault_that_is_over_is_logged_once_more_and_then_forgotten(log: Logged) -> None:
    for text in ("the connection is lost", "connection refused", "starting up"):
        log.fail(text)
    log.lines()
    log.pass_(60)
    (again,) = log.lines()
    assert again.startswith("an append failed: starting up (repetitions since ")
    assert again.endswith(": 2)")
    log.pass_(60)
    (over,) = log.lines()
    assert over.startswith("over since ")
    assert "an append failed: starting up (times since " in over
    assert over.endswith(": 3)")
    log.pass_(600)
    assert log.lines() == []
    log.fail()
    assert log.lines() == ["an append failed: connection refused"]


def test_a_fault_that_happened_once_is_not_logged_again(log: Logged) -> None:
    log.fail()
    log.lines()
    log.pass_(600)
    assert log.lines() == []


@pytest.mark.parametrize("pause", [1, 7, 30, 59, 61, 90, 119, 121])
def test_a_fault_never_leaves_two_lines_within_a_minute(log: Logged, pause: int) -> None:
    """Also if it ends and begins again: each line, also that of its end, counts."""
    instants: list[float] = []
    for _ in range(40 + 300 // pause):
        log.fail()
        instants += [log.now] * len(log.lines())
        for _ in range(pause):
            log.pass_(1)
            instants += [log.now] * len(log.lines())
    assert len(instants) > 3
    assert min(later - earlier for earlier, later in pairwise(instants)) >= 60


def test_faults_of_different_names_are_kept_apart_and_errors_and_numbers_are_not(
    log: Logged,
) -> None:
    for name in ("sweeper", "leases"):
        for number in (1, 2):
            log.logger.warning("%s: round %d postponed: %s", name, number, OSError(str(number)))
    assert log.lines() == ["sweeper: round 1 postponed: 1", "leases: round 1 postponed: 1"]


def test_a_fault_whose_error_is_logged_as_a_sentence_is_one_fault(log: Logged) -> None:
    for error in ("the connection is lost", "connection refused: is it running?"):
        log.logger.warning("beat: %s", f"what was sealed cannot be followed: {error}")
    assert log.lines() == ["beat: what was sealed cannot be followed: the connection is lost"]


def test_bugs_of_different_requests_are_each_logged_with_their_traceback(log: Logged) -> None:
    for request in ("a", "b"):
        try:
            raise ValueError(request)
        except ValueError:
            log.logger.exception("request %s could not be answered", request)
    lines = log.lines()
    assert [line for line in lines if line.startswith("ValueError")] == [
        "ValueError: a",
        "ValueError: b",
    ]


def test_a_process_that_is_started_again_logs_no_fault_that_its_predecessor_just_logged(
    log: Logged,
) -> None:
    log.fail()
    assert len(log.lines()) == 1
    for _ in range(3):
        log.repetitions.inherit()
        log.now += 10
        log.fail("starting up")
    assert log.lines() == []
    log.now += 30
    log.repetitions.tell_due()
    (again,) = log.lines()
    assert again.startswith("an append failed: starting up (repetitions since ")


def test_memory_is_bounded_when_each_line_has_a_name_of_its_own(log: Logged) -> None:
    for number in range(5_000):
        log.logger.warning("request %s could not be answered", str(number))
    assert len(log.lines()) == 5_000, "no line is lost"
    assert len(log.repetitions._faults) == 1_000
    log.pass_(60)
    assert log.repetitions._faults == {}
