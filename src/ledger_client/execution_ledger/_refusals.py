"""Refused facts: each goes to the caller's function, and the log names the first of each code."""

from __future__ import annotations

import atexit
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any

from execution_ledger.errors import Problem

log = logging.getLogger("execution_ledger")

Refusal = Callable[[dict[str, Any], Problem], object]
"""Called in the reporter's thread with a fact that will not be recorded, and the reason."""

LINE_SECONDS = 60.0
"""After a line in the log, refusals of the same codes are only counted for this time."""


class Refusals:
    """Passes refused facts to the caller's function and the log. Never raises.

    The first refusal of each code is logged at once. Later ones are counted. Their number is logged
    a minute after the first of them, and at the end of the program.
    """

    def __init__(self, on_refused: Refusal | None) -> None:
        self._on_refused = on_refused
        self.begin()

    def begin(self) -> None:
        """Start anew, as in the child of a fork."""
        self._lock = threading.RLock()  # a signal handler may report too
        self._here = threading.local()
        self._logged: set[str] = set()
        self._more: Counter[str] = Counter()
        self._since = ""
        self._timer: threading.Timer | None = None

    @property
    def is_in_callback(self) -> bool:
        """True if the calling code runs within ``on_refused``."""
        return getattr(self._here, "depth", 0) > 0

    def tell(self, refused: Iterable[tuple[dict[str, Any], Problem]]) -> None:
        """Pass on refused facts with their reasons."""
        for fact, problem in refused:
            if self._is_first(problem.code or "problem"):
                log.error("The ledger has refused %s: %s", _named(fact), problem)
            if self._on_refused is not None:
                self._here.depth = getattr(self._here, "depth", 0) + 1
                try:
                    self._on_refused(fact, problem)
                except Exception:
                    log.exception("on_refused has failed.")
                finally:
                    self._here.depth -= 1

    def _is_first(self, code: str) -> bool:
        with self._lock:
            if code not in self._logged:
                self._logged.add(code)
                return True
            self._more[code] += 1
            if self._timer is None:
                self._since = f"{datetime.now():%H:%M:%S}"
                self._timer = threading.Timer(LINE_SECONDS, self.tell_more)
                self._timer.daemon = True
                atexit.register(self.tell_more)
                with suppress(RuntimeError):  # at its end a program starts no thread
                    self._timer.start()
            return False

    def tell_more(self) -> None:
        """Log the number of refusals since the last line in the log."""
        with self._lock:
            more, self._more = self._more, Counter()
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            atexit.unregister(self.tell_more)
            count = more.total()
            facts = "1 more fact was" if count == 1 else f"{count:,} more facts were"
            codes = ", ".join(code for code, _ in more.most_common())
            log.error("%s refused since %s: %s", facts, self._since, codes)


def _named(fact: dict[str, Any]) -> str:
    """A fact's type, its subject or line, and its id, as a text."""
    data = fact.get("data")
    line = data.get("service_line_id") if isinstance(data, dict) else None
    subject = fact.get("subject") or line
    about = f" about {subject}" if subject else ""
    return f"{fact.get('type')}{about}" + (f" ({fact['id']})" if fact.get("id") else "")
