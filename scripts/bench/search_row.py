"""The row about the search: the time of an answer, for a client with one request at a time."""

import random
import time
from collections.abc import Iterator
from urllib.parse import quote

from measure import Bench, Row, at_most
from population import CLIENTS, CREWS, SUBJECTS
from product import Client

MOST_MS = 20
SEARCHES = 600
WARM_UP = 100


def search(bench: Bench) -> Row:
    """The 95th percentile of many searches. All differ, so none is answered from memory."""
    client, times = Client(bench.product), []
    for number, text in enumerate(searches(bench.data.lines)):
        began = time.perf_counter()
        client.get(f"/v1/search?q={quote(text)}")
        if number >= WARM_UP:
            times.append(1e3 * (time.perf_counter() - began))
    times.sort()
    half, most = times[len(times) // 2], times[-1]
    note = f"{bench.data.lines:,} lines; median {half:.1f}, most {most:.1f}"
    p95 = times[int(0.95 * len(times))]
    return at_most("search, one client, p95, ms", p95, MOST_MS, "ms", note)


def searches(lines: int) -> Iterator[str]:
    """Distinct texts: beginnings of words that many names have, pairs of them, and numbers."""
    draw, queries = random.Random(27), set[str]()
    while len(queries) < WARM_UP + SEARCHES:
        words = [draw.choice(each).split()[0] for each in (CLIENTS, SUBJECTS, CREWS)]
        some = draw.sample(words, draw.randint(1, 3))
        texts = [word[: draw.randint(2, len(word))] for word in some]
        number = str(draw.randint(1, lines))
        text = draw.choice([" ".join(texts), " ".join(texts), number, f"{number} {texts[0]}"])
        if text not in queries:
            queries.add(text)
            yield text
