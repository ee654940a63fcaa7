"""The key server of an identity provider."""

from collections.abc import Iterator

import pytest

from tests.support.provider import Provider


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider("ed-1") as provider:
        yield provider
