"""Workspaces of the tests' own."""

import itertools

import pytest

_numbers = itertools.count(810_001)


@pytest.fixture
def workspace() -> str:
    """A workspace of the test's own."""
    return f"WS-26-{next(_numbers)}"
