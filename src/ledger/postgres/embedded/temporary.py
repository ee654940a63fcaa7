"""A server for the duration of a command, whose files are gone afterwards."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from ledger.postgres.embedded.account import EmbeddedPostgresError
from ledger.postgres.embedded.owner import EmbeddedPostgres

_SETTINGS: Mapping[str, str] = MappingProxyType(
    {"fsync": "off", "full_page_writes": "off", "max_connections": "20", "max_wal_size": "512MB"}
)
"""Nothing of the server outlives the command, so nothing must reach the disk."""

_MISLEADING = ("PGHOSTADDR", "PGSERVICE")
"""Variables that lead clients to another server although a URL names this one."""


@contextmanager
def temporary_server() -> Iterator[str]:
    """The address of an empty database ``ledger``, in a folder below TMPDIR. In the main thread.

    Raises EmbeddedPostgresError.
    """
    for name in _MISLEADING:
        if name in os.environ:
            raise EmbeddedPostgresError(f"{name} must not be set: set LEDGER_DATABASE_URL instead")
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
        # Under root the server runs as another user, who must be able to enter the folder.
        Path(folder).chmod(0o711)
        server = EmbeddedPostgres(Path(folder, "data"), purpose="verify", settings=_SETTINGS)
        server.start()
        try:
            yield server.url
        finally:
            server.stop()
