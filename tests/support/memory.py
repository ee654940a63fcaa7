"""The run keys in the memory of this process, from which an erasure must remove them."""

import base64
import gc
from typing import Any

from ledger.engine.log.vault import CannotOpen, RunKey


def count_keys_of(first_event: Any) -> int:
    """Count the run keys in memory that open a run's input; ``first_event`` is an event's state."""
    sealed = base64.b64decode(first_event["body"]["input"])
    gc.collect()
    return sum(_opens(key, sealed) for key in gc.get_objects() if isinstance(key, RunKey))


def _opens(key: RunKey, sealed: bytes) -> bool:
    try:
        key.open("input", sealed)
    except CannotOpen:
        return False
    return True
