"""The real HTTP server of a module's service."""

from collections.abc import Iterator

import pytest

from tests.support.edge import Edge
from tests.support.streaming import Address, listening


@pytest.fixture(scope="module")
def address(edge: Edge) -> Iterator[Address]:
    with listening(edge) as address:
        yield address
