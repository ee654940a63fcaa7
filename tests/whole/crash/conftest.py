"""A service whose processes are killed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.data_dirs import copy_of
from tests.support.embedded import folder_in_tmp
from tests.support.served import Served, free_port


@pytest.fixture(scope="module")
def served(template: Path) -> Iterator[Served]:
    """A service whose workers are killed and replaced."""
    with (
        folder_in_tmp(0o755) as folder,
        Served(copy_of(template, folder / "data"), free_port()) as service,
    ):
        yield service
