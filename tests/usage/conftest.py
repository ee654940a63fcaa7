"""Workspaces of the tests' own."""

import itertools

import pytest

_places = itertools.count(810_001)


@pytest.fixture
def place() -> str:
    """A workspace of the test's own."""
    return f"WS-26-{next(_places)}"
