"""The files that commands read."""

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from ledger.app.composition.database import ConfigurationError

_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
"""The first bytes of a file that gzip made, and of a spreadsheet's workbook."""


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
            raise ConfigurationError(f"Cannot read {file}: {error.strerror}.") from error
        found = os.fstat(stream.fileno())
        head = os.pread(stream.fileno(), 4, 0) if stat.S_ISREG(found.st_mode) else b""
        if head == _ZIP:
            raise ConfigurationError(f"{file} is a workbook or an archive: save it as CSV first.")
        if head.startswith(_GZIP):
            raise ConfigurationError(f"{file} is compressed: unpack it first, as with `zcat`.")
        yield stream, found.st_size
