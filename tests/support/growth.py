"""Growth of work with the size of its input, measured in CPU time, not in wall-clock time."""

from collections.abc import Callable
from time import process_time
from typing import TypeVar

T = TypeVar("T")


def assert_linear(work: Callable[[T], object], build: Callable[[int], T], size: int) -> None:
    """Assert that four times the input costs less than 10 times the CPU (quadratic work: 16)."""
    small, large = (_cpu_seconds(work, build(times * size)) for times in (1, 4))
    assert large < 10 * small, f"{large / small:.1f} times the CPU for four times the input"


def _cpu_seconds(work: Callable[[T], object], argument: T) -> float:
    """The least CPU time of three tries: the others include disturbances by other processes."""
    tries = []
    for _ in range(3):
        begun = process_time()
        work(argument)
        tries.append(process_time() - begun)
    return min(tries)
