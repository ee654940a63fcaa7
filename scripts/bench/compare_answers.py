"""Compares the answers of two versions that serve copies of the same ledger."""

import contextlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import tale
from corpus import Corpus
from corpus_request import Answer, Request, Send, compared, reason_of, sending
from lag import await_views
from product import NEVER_IDLE, Product, UnmeasuredError, copy_ledger, serving
from teller import Teller
from told_ledgers import Tale, tale_of
from unasked import LEFT_OUT, unasked
from versions import HERE, OLD, Version

SHOWN = 10  # differences that are printed
AROUND = 60  # bytes of a difference that are printed

QUIET = {"LEDGER_IDLE_AFTER_AGENT_RUNTIME": NEVER_IDLE, "LEDGER_WEBHOOK_RETRY_SECONDS": "2592000"}
"""Settings under which nothing is recorded while answers are compared."""


@dataclass(frozen=True)
class Difference:
    """A request that two versions answer differently."""

    request: Request
    old: Answer
    new: Answer

    @property
    def reason(self) -> str | None:
        """The reason why the difference is wanted; None if it is not."""
        return reason_of(self.request, self.old, self.new)

    def __str__(self) -> str:
        old, new = (compared(self.request, answer) for answer in (self.old, self.new))
        at = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), None)
        at = min(len(old), len(new)) if at is None else at
        shown = [text[max(0, at - 20) : at + AROUND] for text in (old, new)]
        both = f"  old {shown[0]!r}\n  new {shown[1]!r}"
        return f"{self.request}\n  differs from byte {at} on:\n{both}"


_HOLD_READS = """
CREATE FUNCTION public.hold_read() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'reads are not recorded while answers are compared';
END $$;
CREATE TRIGGER hold_reads BEFORE INSERT ON ledger.ledger_events
FOR EACH ROW WHEN (NEW.originator_id LIKE 'READ-%') EXECUTE FUNCTION public.hold_read();
"""


@contextlib.contextmanager
def served_tale(told: Tale, version: Version, folder: Path) -> Iterator[Product]:
    """A version on a copy of the tale, once its log is quiet and sealed."""
    data_dir = folder / version.name[:7]
    copy_ledger(told.data_dir, data_dir)
    settings = tale.SETTINGS | QUIET
    log = folder / f"{version.name[:7]}.log"
    with serving(
        data_dir, told.keys["organization"], 1, log, ledger=version.ledger, settings=settings
    ) as product:
        await_views(product)
        teller = Teller(product)
        teller.keys = told.keys
        teller.settle()
        yield product


def hold_reads(product: Product) -> None:
    """Refuse to record reads of runs from now on: they would move the positions of answers."""
    with psycopg.connect(product.database_url) as connection:
        connection.execute(_HOLD_READS)


def compare_corpora(old: Version) -> tuple[int, list[Difference]]:
    """The number of compared answers, and the differences. Raises if a route was not asked."""
    told = tale_of(old)
    with contextlib.ExitStack() as stack:
        # Beside the work trees, since PostgreSQL's user, if another, can reach that folder.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pair-", dir=OLD)))
        folder.chmod(0o755)
        sends = []
        for version in (old, HERE):
            product = stack.enter_context(served_tale(told, version, folder))
            hold_reads(product)
            sends.append(stack.enter_context(sending(product.port, told.keys)))
        ask_old, ask_new = sends
        corpus = Corpus(ask_old)
        corpus.ask()
        for ask in (ask_old, ask_new):
            document = json.loads(ask(Request("nobody", "/openapi.json")).body)
            if missing := unasked(corpus.told, document):
                raise UnmeasuredError(f"the corpus asks for no {'; no '.join(missing)}")
        return len(corpus.told), list(_differences(corpus, ask_old, ask_new))


def _differences(corpus: Corpus, ask_old: Send, ask_new: Send) -> Iterator[Difference]:
    """The answers that differ when both versions are asked now: time passes between requests."""
    for request, answer in corpus.told.items():
        new = ask_new(request)
        if compared(request, new) != compared(request, answer):
            old, new = ask_old(request), ask_new(request)
            if compared(request, old) != compared(request, new):
                yield Difference(request, old, new)


def print_comparison(old: Version) -> bool:
    """Compare, and print the differences; return whether every difference is wanted."""
    began = time.perf_counter()
    count, found = compare_corpora(old)
    taken = time.perf_counter() - began
    unwanted = [difference for difference in found if difference.reason is None]
    print(f"{count:,} answers compared in {taken:.0f} s, {len(unwanted)} differ.")
    for reason, number in Counter(difference.reason for difference in found).items():
        if reason is not None:
            print(f"{number} differ as wanted: {reason}.")
    print("Not compared:", *(f"{path} ({reason});" for path, reason in LEFT_OUT.items()))
    for difference in unwanted[:SHOWN]:
        print(difference)
    return not unwanted
