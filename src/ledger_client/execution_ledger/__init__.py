"""The official client of the execution ledger.

``Ledger`` and ``AsyncLedger`` report and read. ``types`` has the classes of their answers, and
``errors`` their errors. ``verify`` checks files offline, and ``testing`` has a ledger for your own
tests.
"""

from execution_ledger._async.client import AsyncLedger
from execution_ledger._outcomes import Flushed
from execution_ledger._requests import VERSION as __version__
from execution_ledger._sync.client import Ledger
from execution_ledger.cursors import FileCursor, SqliteCursor, Store
from execution_ledger.errors import (
    BadRequest,
    Conflict,
    Fault,
    Forbidden,
    Invalid,
    LedgerError,
    NotConfigured,
    NotFound,
    NotReachable,
    NotVerified,
    Problem,
    RateLimited,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
)
from execution_ledger.run import OpenRun, current_run
from execution_ledger.why import Why

__all__ = [
    "AsyncLedger",
    "BadRequest",
    "Conflict",
    "Fault",
    "FileCursor",
    "Flushed",
    "Forbidden",
    "Invalid",
    "Ledger",
    "LedgerError",
    "NotConfigured",
    "NotFound",
    "NotReachable",
    "NotVerified",
    "OpenRun",
    "Problem",
    "RateLimited",
    "SqliteCursor",
    "Store",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "Why",
    "__version__",
    "current_run",
]
