"""The log of a process: one line a record on standard error, and the lines of a start before it."""

import logging
from collections.abc import Callable

from ledger.engine.telemetry.lines import LineFormatter, LogFormat
from ledger.engine.telemetry.repetitions import Repetitions

# The member `logger` of these lines as JSON.
_logger = logging.getLogger("ledger.telemetry.announcing")

_NOISY = ("psycopg.pool", "psycopg", "httpx", "httpx2")
"""Loggers of libraries that tell in many lines what our own lines tell."""


def begin_logging() -> None:
    """In a child: log as its parent does, and tell repetitions on a thread of its own."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Repetitions):
            handler.inherit()
            handler.start()


def configure_logging(log_format: LogFormat) -> Repetitions:
    """Log to standard error in this format; return the handler that holds back repetitions.

    The children of this process log in the same way (``begin_logging``).
    """
    out = logging.StreamHandler()
    out.setFormatter(LineFormatter(log_format))
    repetitions = Repetitions(out)
    logging.basicConfig(level=logging.INFO, handlers=[repetitions], force=True)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    return repetitions


class Announcing:
    """Prints lines to the operator who starts the service, and to its log once it serves.

    The operator gets plain lines. A log of JSON gets them as JSON from the first one on, so that a
    program can read it. The log holds back a repeated line, as at each recovery of PostgreSQL, like
    any other.
    """

    def __init__(self, announce: Callable[[str], None], log_format: LogFormat) -> None:
        self._announce = announce
        self._is_logging = log_format == "json"

    def begin_logging(self) -> None:
        """Write further lines to the log: the service serves."""
        self._is_logging = True

    def __call__(self, line: str) -> None:
        if self._is_logging:
            _logger.info(line)  # as the message itself, so that the line is no repetition of others
        else:
            self._announce(line)
