"""A ledger on a primary, and a read node on its hot standby: real servers and real processes."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.support.data_dirs import MASTER_KEY, QUICK, copy_of
from tests.support.embedded import folder_in_tmp, memory, served
from tests.support.hot_standby import Standby, standby_of
from tests.support.served import Served, free_port, serving_at


class Cluster(NamedTuple):
    """The node that writes, the read node, and the standby between them."""

    folder: Path
    standby: Standby
    node: Served
    reader: Served
    token: str

    def client(self, served: Served) -> httpx.Client:
        """A client of one of the nodes."""
        return served.client(self.token)


def environment(url: str) -> dict[str, str]:
    return {"LEDGER_DATABASE_URL": url, "LEDGER_MASTER_KEY": MASTER_KEY}


def read_node(folder: Path, url: str, **more: str) -> Served:
    """A read node on a database, to be started by ``with``."""
    return Served(folder, free_port(), 1, role="read", **environment(url), **more)


@pytest.fixture(scope="package")
def cluster(template: Path) -> Iterator[Cluster]:
    with (
        folder_in_tmp(0o755, memory()) as folder,
        served(copy_of(template, folder / "primary"), settings=QUICK) as primary,
        serving_at(folder / "node", workers=1, **environment(primary.url)) as node,
        standby_of(primary, folder / "standby") as standby,
    ):
        token = node.token("service_lines:manage", "audit:read", "webhooks:manage", "keys:manage")
        standby.catch_up()
        with read_node(folder / "reader", standby.url) as reader:
            yield Cluster(folder, standby, node, reader, token)


@pytest.fixture
def writes(cluster: Cluster) -> Iterator[httpx.Client]:
    """A client of the node that writes."""
    with cluster.client(cluster.node) as client:
        yield client


@pytest.fixture
def reads(cluster: Cluster) -> Iterator[httpx.Client]:
    """A client of the read node, which is not late."""
    cluster.standby.catch_up()
    with cluster.client(cluster.reader) as client:
        yield client
