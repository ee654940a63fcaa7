"""The text of the metrics that the processes of a service keep in files, and how askers share it.

prometheus-client can make such a text too, but parses the name of each sample and checks each label
anew for every text: 20 microseconds a sample in which no request of the worker gets on
(``docs/architecture.md``). Here a name is parsed once; 4 microseconds remain.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.utils import floatToGoString

from ledger.api.machinery.compression import Packed
from ledger.telemetry.request import for_nobody

_KEPT_SECONDS = 1.0
"""From the begin of a text until the next one may be made."""

_values_in = MmapedDict.read_all_values_from_file

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class SharedText:
    """A text that all who ask share; it is made anew at most once in so many seconds.

    Anybody may ask for the metrics, so what an answer costs must not grow with the askers.
    """

    def __init__(self, kept_seconds: float = _KEPT_SECONDS) -> None:
        self._kept_seconds = kept_seconds
        self._made_at = 0.0
        self._making: asyncio.Task[Packed] | None = None

    async def read(self, make: Callable[[], Awaitable[Packed]]) -> Packed:
        """The kept text, or one that ``make`` makes now. Raises the error of ``make``."""
        loop = asyncio.get_running_loop()
        making = self._making
        if making is None or (making.done() and loop.time() - self._made_at >= self._kept_seconds):
            self._made_at = loop.time()
            making = self._making = loop.create_task(_awaited(make), context=for_nobody())
        # A client that leaves takes the text from nobody else.
        return await asyncio.shield(making)


async def _awaited(make: Callable[[], Awaitable[Packed]]) -> Packed:
    return await make()


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
