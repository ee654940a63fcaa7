"""Cases that repeat a test with other random data, for ``make soak`` alone."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pytest


def repeated(cases: Iterable[Any], first: int = 1) -> Iterator[Any]:
    """The cases for ``parametrize``: the first ones always run, the others under ``make soak``."""
    rest = iter(cases)
    yield from islice(rest, first)
    yield from (pytest.param(case, marks=pytest.mark.soak) for case in rest)
