"""Prefect: each attempt of a flow run is an attempt of one run."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from execution_ledger._async.client import AsyncLedger
from execution_ledger._sync.client import Ledger
from execution_ledger.run import OpenRun

try:
    from prefect.runtime import flow_run
except ImportError as error:
    message = "Install prefect: pip install 'execution-ledger-client[prefect]'."
    raise ImportError(message) from error


class LedgerFlow:
    """The run of a flow's body: ``with LedgerFlow(ledger, line, lease=600) as run:``.

    Prefect's id of the flow run names the run, and its count of runs is the attempt. So a flow that
    is retried, or run again after a crash, has several attempts under one name. After a crash, the
    next attempt is refused until the lease has ended the previous one. Runs and subflows within the
    block are its children.
    """

    def __init__(
        self,
        ledger: Ledger | AsyncLedger,
        line: str,
        *,
        lease: int | None = None,
        input: Any = None,
        tells_errors: bool = False,
    ) -> None:
        self._scope = ledger.run(
            line,
            name=flow_run.id,
            attempt=flow_run.run_count or None,
            lease=lease,
            input=input,
            tells_errors=tells_errors,
        )

    def __enter__(self) -> OpenRun:
        return self._scope.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._scope.__exit__(kind, error, trace)
