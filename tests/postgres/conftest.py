"""Folders for the tests of the embedded PostgreSQL, which leave none of its processes behind."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import folder_in_tmp, nothing_lives_on, served


@pytest.fixture(scope="session")
def shared_dir() -> Iterator[Path]:
    with folder_in_tmp(0o755) as folder:
        parent = folder / "with a space"
        parent.mkdir()
        parent.chmod(0o755)  # whatever the umask
        with served(parent / ".ledger"):
            pass
        yield parent / ".ledger"


@pytest.fixture
def data_dir(shared_dir: Path) -> Iterator[Path]:
    """A data directory with a database in it and no server. Shared: a first start takes long."""
    with nothing_lives_on(shared_dir):
        yield shared_dir
