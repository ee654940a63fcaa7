"""Cases of a test's long form, for ``make soak`` alone (``make browser`` for those of the page)."""

from collections.abc import Iterable
from typing import Any

import pytest


def repeated(cases: Iterable[Any], first: int = 1) -> list[Any]:
    """The cases for ``parametrize``: the first ones always run, the others under ``make soak``."""
    every = list(cases)
    values = (case if isinstance(case, tuple) else (case,) for case in every[first:])
    more = [pytest.param(*value, marks=pytest.mark.soak) for value in values]
    return [*every[:first], *more]
