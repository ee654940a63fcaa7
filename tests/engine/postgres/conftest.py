"""Folders for the embedded PostgreSQL, which leaves no process behind; read pools on both loops."""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import uvloop

from tests.support.data_dirs import copy_of
from tests.support.door import SelectorLoop, play_with_pool
from tests.support.embedded import folder_in_tmp, nothing_lives_on
from tests.support.relay import Relay


@pytest.fixture(scope="session")
def shared_dir(template: Path) -> Iterator[Path]:
    with folder_in_tmp(0o755) as folder:
        parent = folder / "with a space"
        parent.mkdir()
        parent.chmod(0o755)  # whatever the umask
        yield copy_of(template, parent / ".ledger")


@pytest.fixture
def data_dir(shared_dir: Path) -> Iterator[Path]:
    """A data directory with a database in it and no server. Shared: a first start takes long."""
    with nothing_lives_on(shared_dir):
        yield shared_dir


@pytest.fixture(params=[SelectorLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def tell(request: pytest.FixtureRequest, conninfo: str) -> Callable[..., None]:
    """Plays with a read pool of its own, on either loop."""
    return partial(play_with_pool, request.param, conninfo)


@pytest.fixture
def relay(conninfo: str) -> Iterator[Relay]:
    """A path to the database that looks like the same machine: a socket in a folder."""
    with folder_in_tmp(0o755) as folder, closing(Relay(conninfo, folder)) as relay:
        yield relay


@pytest.fixture
def proxy(conninfo: str) -> Iterator[Relay]:
    """A way to the database through a port."""
    with closing(Relay(conninfo)) as relay:
        yield relay
