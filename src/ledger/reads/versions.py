"""The views that this process may read while nodes of two versions serve one database.

A view belongs to the version of the code that made its rows. A node of a newer version rebuilds it
beside the old rows, and swaps. Until then the older nodes read it, and the newer node too if it
finds the columns that it needs. After the swap the older nodes read it no more: its columns may
mean something else (contract, Several nodes).
"""

import asyncio
from collections.abc import Callable, Mapping


class Versions:
    """The versions of the views that are stored, against those of this process's code.

    ``find_unfit`` asks the database for the views whose columns this code cannot read.
    """

    def __init__(self, own: Mapping[str, int], find_unfit: Callable[[], frozenset[str]]) -> None:
        self._own, self._find_unfit = own, find_unfit
        self._stored: dict[str, int] = {}
        self._had: set[str] = set()
        """Views that had this code's version at some time of this process."""
        self._unfit: frozenset[str] = frozenset()
        self._refused: frozenset[str] = frozenset()

    @property
    def are_outdated(self) -> bool:
        """Whether a newer node has rebuilt a view that this process had been able to read."""
        return not self._had.isdisjoint(self._others(self._stored))

    def refuse(self, views: frozenset[str]) -> bool:
        """Whether one of these views may not be read."""
        return bool(self._refused) and not self._refused.isdisjoint(views)

    async def load(self, stored: Mapping[str, int]) -> None:
        """Take the stored version of each view. Raises the database's error; nothing is taken."""
        if stored != self._stored:
            if self._others(stored):
                self._unfit = await asyncio.to_thread(self._find_unfit)
            self._stored = dict(stored)
            self._had.update(dict(stored.items() & self._own.items()))
            self._judge()

    def hear(self, view: str, version: int) -> None:
        """Take the version of a view that has just been rebuilt."""
        self._stored[view] = version
        if self._own.get(view) == version:
            self._had.add(view)
        self._judge()

    def _judge(self) -> None:
        self._refused = frozenset(self._others(self._stored) & (self._had | self._unfit))

    def _others(self, stored: Mapping[str, int]) -> set[str]:
        """The views that another version has made. (Version 0: no version has, yet.)"""
        own = self._own.items()
        return {name for name, version in own if stored.get(name, 0) not in {0, version}}
