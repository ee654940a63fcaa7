"""The text of the metrics that the processes of a service keep in files, and how askers share it.

prometheus-client can make such a text too, but parses the name of each sample and checks each label
anew for every text: 20 microseconds a sample in which no request of the worker gets on
(``docs/architecture.md``). Here a name is parsed once; 4 microseconds remain.
"""

import asyncio
import json
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.utils import floatToGoString

from ledger.api.machinery.compression import Packed
from ledger.telemetry.request import for_nobody

_EVERY_SECONDS = 1.0
"""From the begin of a text until the begin of the next one."""

_values_in = MmapedDict.read_all_values_from_file

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class SharedText:
    """A text that is made at most once in so many seconds: all who ask meanwhile get the same.

    Anybody may ask for the metrics, so their cost must not grow with the requests. No text is kept:
    a request that comes too early waits for the next text. So nobody gets old numbers, and somebody
    who asks in a loop gets an answer a second on each connection.
    """

    def __init__(self, every_seconds: float = _EVERY_SECONDS) -> None:
        self._every_seconds = every_seconds
        self._begun_at = -math.inf
        self._making: asyncio.Task[Packed] | None = None

    async def read(self, make: Callable[[], Awaitable[Packed]]) -> Packed:
        """The next text, which ``make`` makes. Raises the error of ``make``."""
        if self._making is None:
            loop = asyncio.get_running_loop()
            self._making = loop.create_task(self._make(make), context=for_nobody())
        # A client that leaves takes the text from nobody else.
        return await asyncio.shield(self._making)

    async def _make(self, make: Callable[[], Awaitable[Packed]]) -> Packed:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(self._begun_at + self._every_seconds - loop.time())
            self._begun_at = loop.time()
            return await make()
        finally:
            self._making = None


class _Sample(NamedTuple):
    """The name of a sample in the files, taken apart."""

    family: str
    help: str
    name: str
    labels: str
    """As in the text, without the bound of a bucket."""
    bound: float | None
    """Of a bucket of a histogram."""


def text_of_files(folder: Path) -> str:
    """The metrics of all processes that have ever kept files in the folder, added up.

    Files are sums, one way or another: of counters and histograms over all processes, of gauges
    (``livesum``) over the living ones, since the files of the others are removed.
    """
    values: defaultdict[str, float] = defaultdict(float)
    kinds: dict[str, str] = {}
    for file in sorted(folder.glob("*.db")):
        kind = file.name.partition("_")[0]
        try:
            for key, value, _, _ in _values_in(file):  # type: ignore[no-untyped-call]
                values[key] += value
                kinds[key] = kind
        except FileNotFoundError:
            continue  # the gauges of a process that has ended a moment ago
    families: dict[str, tuple[str, str, list[tuple[_Sample, float]]]] = {}
    for key, value in values.items():
        sample = _sample_of(key)
        family = families.setdefault(sample.family, (kinds[key], sample.help, []))
        family[2].append((sample, value))
    return "".join(_text_of(name, *family) for name, family in families.items())


@cache
def _sample_of(key: str) -> _Sample:
    family, name, labels, help_ = json.loads(key)
    bound = labels.pop("le", None)
    pairs = ((label, str(value).translate(_ESCAPES)) for label, value in sorted(labels.items()))
    text = ",".join(f'{label}="{value}"' for label, value in pairs)
    return _Sample(family, help_, name, text, None if bound is None else float(bound))


def _text_of(family: str, kind: str, help_: str, samples: list[tuple[_Sample, float]]) -> str:
    name = f"{family}_total" if kind == "counter" else family
    lines = [f"# HELP {name} {help_}", f"# TYPE {name} {kind}"]
    buckets: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for sample, value in samples:
        if sample.bound is None:
            lines.append(_line(sample.name, sample.labels, value))
        else:
            buckets[sample.labels].append((sample.bound, value))
    for labels, counts in buckets.items():
        total = 0.0
        before = f"{labels}," if labels else ""
        for bound, count in sorted(counts):
            total += count
            lines.append(_line(f"{family}_bucket", f'{before}le="{_number(bound)}"', total))
        lines.append(_line(f"{family}_count", labels, total))
    return "\n".join(lines) + "\n"


def _line(name: str, labels: str, value: float) -> str:
    return f"{name}{{{labels}}} {_number(value)}" if labels else f"{name} {_number(value)}"


def _number(value: float) -> str:
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text
