"""Lines of ``ledger serve`` for its operator, such as the address at which it serves."""

import logging
from collections.abc import Callable

from ledger.telemetry.lines import LogFormat

_logger = logging.getLogger(__name__)


class Announcing:
    """Says lines to the operator who starts the service, and to its log once it serves.

    The operator gets plain lines. A log of JSON gets them as JSON from the first one on, so that a
    program can read it. A line that is said again and again, as at each recovery of PostgreSQL, is
    held back by the log like any other.
    """

    def __init__(self, announce: Callable[[str], None], log_format: LogFormat) -> None:
        self._announce = announce
        self._is_logging = log_format == "json"

    def begin_logging(self) -> None:
        """Say further lines to the log: the service serves."""
        self._is_logging = True

    def __call__(self, line: str) -> None:
        """Say a line."""
        if self._is_logging:
            _logger.info(line)  # as the message itself, which tells it from other lines
        else:
            self._announce(line)
