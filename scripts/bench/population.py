"""The lines of a data set: tenant, model, tags and fate of each, drawn from one seed.

A line takes a few bytes, so a million lines fit in memory. The same number of lines always gives
the same lines: the generator writes their lives, and the bench requests them.
"""

import random
from collections.abc import Iterator
from math import gcd

from story import MODELS, ORGANIZATION, line_id

from ledger.engine.values.values import CAUSES, MODELS_WITH_RUNS

OTHER_ORGANIZATION = "ORG-26-000002"
WORKSPACES = 20  # of the first organization; the other has two more
TAGS = 60
CLIENTS = ("Halden", "Nordwind", "Zürich Re", "Patera", "Söderberg", "Kestrel", "Oakham", "Pallas")
SUBJECTS = ("payments", "payroll", "claims", "partner portal", "ledger", "onboarding", "fraud")
CREWS = ("pod", "agent", "desk", "platform", "watch")

FATES = ("running", "idle", "blocked", "paused", "closed", "woken", "recovered", "open")
"""The fates of lines.

A ``recovered`` line was blocked before. An ``open`` line has an open run, if its model has runs."""
_SHARES = (50, 14, 10, 7, 7, 3, 4, 5)
_SEED = 20260302


class Population:
    """Lines 1 to ``lines``. The line with the many runs is ``big``."""

    def __init__(self, lines: int) -> None:
        draw = random.Random(_SEED + lines)
        self.lines = lines
        self.big = lines // 2 or 1
        every = lines + 1  # there is no line 0
        self._model = bytearray(draw.choices(range(len(MODELS)), (25, 15, 15, 15, 12, 18), k=every))
        # Most lines come from the product line that their model is named after.
        self._product = bytearray(draw.choices(range(2 * len(MODELS)), k=every))
        # Two in a hundred are the other organization's.
        shares = [98 / WORKSPACES] * WORKSPACES + [1, 1]
        self._workspace = bytearray(draw.choices(range(WORKSPACES + 2), shares, k=every))
        self._fate = bytearray(draw.choices(range(len(FATES)), _SHARES, k=every))
        self._cause = bytearray(draw.choices(range(len(CAUSES)), (4, 3, 1, 4), k=every))
        # The first ten projects have three times as many lines as the others.
        shares = [3] * 10 + [1] * (TAGS - 10)
        self._tag = bytearray(draw.choices(range(TAGS), shares, k=every))
        self._other_tag = bytearray(draw.choices(range(2 * TAGS), k=every))
        self._model[self.big], self._workspace[self.big], self._fate[self.big] = 5, 0, 0

    def order(self) -> Iterator[int]:
        """Every line once, in the order of their beginnings, which is not that of their numbers."""
        stride = int(self.lines * 0.618) | 1
        while gcd(stride, self.lines) > 1:
            stride += 2
        return ((index * stride) % self.lines + 1 for index in range(self.lines))

    def model(self, number: int) -> str:
        return MODELS[self._model[number]][1]

    def product_line(self, number: int) -> str:
        drawn = self._product[number]
        return MODELS[drawn if drawn < len(MODELS) else self._model[number]][0]

    def organization(self, number: int) -> str:
        return ORGANIZATION if self._workspace[number] < WORKSPACES else OTHER_ORGANIZATION

    def workspace(self, number: int) -> str:
        return f"WS-26-{self._workspace[number] + 1:06d}"

    def fate(self, number: int) -> str:
        """The line's fate."""
        return FATES[self._fate[number]]

    def cause(self, number: int) -> str:
        """The cause of the line's blocker, if it is blocked."""
        return CAUSES[self._cause[number]]

    def name(self, number: int) -> str:
        """The line's name. Many names share words, but no two names are equal."""
        client, subject = CLIENTS[number % len(CLIENTS)], SUBJECTS[number % len(SUBJECTS)]
        return f"{client} {subject} {CREWS[number % len(CREWS)]} {number}"

    def tags(self, number: int, shift: int = 0) -> tuple[str, ...]:
        """The line's one or two projects; with a shift, other ones."""
        first, second = (self._tag[number] + shift) % TAGS, self._other_tag[number]
        numbers = {first, second} if second < TAGS else {first}
        return tuple(f"PROJ-26-{tag + 1:06d}" for tag in sorted(numbers))

    def has_runs(self, number: int) -> bool:
        """True if the line's model has runs."""
        return self.model(number) in MODELS_WITH_RUNS

    def at_work(self, number: int) -> bool:
        """True if the line takes facts of daily work: of the first organization, and not held."""
        return self.organization(number) == ORGANIZATION and self.fate(number) in (
            "running",
            "woken",
            "recovered",
            "open",
        )

    def numbers_at_work(self, with_runs: bool = False) -> list[int]:
        """The lines at work, or only those with runs; never the big line."""
        every = range(1, self.lines + 1)
        found = [n for n in every if n != self.big and self.at_work(n)]
        return [n for n in found if self.has_runs(n)] if with_runs else found

    def ids(self) -> list[str]:
        """The line ids of the first organization, without the big line's."""
        every = range(1, self.lines + 1)
        return [line_id(n) for n in every if n != self.big and self.organization(n) == ORGANIZATION]
