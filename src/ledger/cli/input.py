"""The files that commands read."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from ledger.service.composition.database import ConfigurationError


@contextmanager
def opened(file: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """Open a file, or standard input for ``-``; give its bytes and their number, if known.

    Raises ConfigurationError.
    """
    if file == "-":
        if sys.stdin is None:
            raise ConfigurationError("Cannot read standard input: it is closed.")
        yield sys.stdin.buffer, None
        return
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(open(file, "rb"))
        except OSError as error:
            raise ConfigurationError(f"Cannot read the file: {error.strerror}.") from error
        yield stream, os.fstat(stream.fileno()).st_size
