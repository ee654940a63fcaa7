"""The log of a process: one line a record on standard error (contract, Health)."""

import logging

from ledger.telemetry.lines import LineFormatter, LogFormat
from ledger.telemetry.repetitions import Repetitions

_NOISY = ("psycopg.pool", "psycopg", "httpx")
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
