"""Waiting, and calls that wait, in both worlds; the generated twin uses the plain ones."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def pause(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


async def pause_async(seconds: float) -> None:
    """Wait without blocking the loop."""
    await asyncio.sleep(seconds)


def call(function: Callable[..., T], *arguments: object) -> T:
    """Call a function that waits."""
    return function(*arguments)


async def call_async(function: Callable[..., T], *arguments: object) -> T:
    """Call a function that waits, in a thread, so that the loop goes on."""
    return await asyncio.to_thread(function, *arguments)
