"""The clients' methods for reporting in the background."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, overload

from execution_ledger._operations import FactType
from execution_ledger.reporter import Reporter
from execution_ledger.types import Instant


class _Counts:
    """Numbers of facts that were reported in the background."""

    _reporter: Reporter

    @property
    def waiting(self) -> int:
        """The number of facts that have no outcome yet."""
        return self._reporter.waiting

    @property
    def refused(self) -> int:
        """The number of facts that were refused since the client was made."""
        return self._reporter.refused


class Reports(_Counts):
    """Reporting in the background."""

    def report(
        self,
        type: FactType | str | Mapping[str, Any],
        subject: str | None = None,
        data: Mapping[str, Any] | None = None,
        *,
        id: str | None = None,
        time: Instant | None = None,
        wait: bool | float = False,
    ) -> None:
        """Report a fact in the background; a CloudEvent as a ``dict`` may replace ``type``.

        Returns at once and never raises. If a fact is refused or cannot be sent, ``on_refused`` and
        the log get it. ``id`` defaults to a new one, and ``time`` to now. A fact with an ``id`` of
        your own is recorded once, however often you report it. Without its ``time``, it happened
        when it arrives. A process that is killed loses at most the facts that ``flush`` had not
        confirmed.

        A full queue refuses the fact. With ``wait=True`` the call waits for room instead; with a
        number it waits for at most so many seconds. Within ``on_refused`` nothing waits.
        """
        attributes = {"subject": subject, "id": id, "time": time}
        self._reporter.report(type, data, attributes, wait)


class AsyncReports(_Counts):
    """Reporting in the background of an event loop."""

    @overload
    def report(
        self,
        type: FactType | str | Mapping[str, Any],
        subject: str | None = None,
        data: Mapping[str, Any] | None = None,
        *,
        id: str | None = None,
        time: Instant | None = None,
    ) -> None: ...

    @overload
    def report(
        self,
        type: FactType | str | Mapping[str, Any],
        subject: str | None = None,
        data: Mapping[str, Any] | None = None,
        *,
        id: str | None = None,
        time: Instant | None = None,
        wait: bool | float,
    ) -> Awaitable[None]: ...

    def report(
        self,
        type: FactType | str | Mapping[str, Any],
        subject: str | None = None,
        data: Mapping[str, Any] | None = None,
        *,
        id: str | None = None,
        time: Instant | None = None,
        wait: bool | float | None = None,
    ) -> Awaitable[None] | None:
        """Report a fact in the background, as ``Ledger.report`` does.

        With ``wait``, await the result: the event loop continues while there is no room. If the
        waiting is cancelled, the fact is not reported.
        """
        attributes = {"subject": subject, "id": id, "time": time}
        done = self._reporter.report_async(type, data, attributes, wait or False)
        return None if wait is None else done
