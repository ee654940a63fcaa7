"""Compares the answers of two versions that serve copies of the same ledger."""

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from corpus import LEFT_OUT, Corpus
from corpus_request import Answer, Request, Send, sending
from product import Product
from told_ledgers import served_copy, story_of
from versions import HERE, OLD, Version

PRINTED = 10  # differences that are printed
AROUND = 60  # bytes of a difference that are printed


@dataclass(frozen=True)
class Difference:
    """A request whose answers differ between two versions."""

    request: Request
    old: Answer
    new: Answer

    def __str__(self) -> str:
        old, new = self.old.compared, self.new.compared
        at = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), None)
        at = min(len(old), len(new)) if at is None else at
        parts = [text[max(0, at - 20) : at + AROUND] for text in (old, new)]
        both = f"  old {parts[0]!r}\n  new {parts[1]!r}"
        return f"{self.request}\n  differs from byte {at} on:\n{both}"


_HOLD_READS = """
CREATE FUNCTION public.hold_read() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'reads are not recorded while answers are compared';
END $$;
CREATE TRIGGER hold_reads BEFORE INSERT ON ledger.ledger_events
FOR EACH ROW WHEN (NEW.originator_id LIKE 'REA%') EXECUTE FUNCTION public.hold_read();
"""


def hold_reads(product: Product) -> None:
    """Stop recording reads of runs: they would move the positions of answers."""
    with psycopg.connect(product.database_url) as connection:
        connection.execute(_HOLD_READS)


def compare_corpora(old: Version) -> tuple[int, list[Difference]]:
    """The number of compared answers, and the differences."""
    story = story_of(old)
    with contextlib.ExitStack() as stack:
        # Next to the work trees: PostgreSQL's user, if another, can reach that folder.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pair-", dir=OLD)))
        folder.chmod(0o755)
        sends = []
        for version in (old, HERE):
            product = stack.enter_context(served_copy(story, version, folder))
            hold_reads(product)
            sends.append(stack.enter_context(sending(product.port, story.keys)))
        ask_old, ask_new = sends
        document = json.loads(ask_old(Request("nobody", "/openapi.json")).body)
        corpus = Corpus(ask_old, document)
        corpus.ask()
        return len(corpus.answers), list(_differences(corpus, ask_old, ask_new))


def _differences(corpus: Corpus, ask_old: Send, ask_new: Send) -> Iterator[Difference]:
    """The answers that differ, without what differs between two answers of the old version too."""
    for request, answer in corpus.answers.items():
        new = ask_new(request)
        if new.compared != answer.compared:
            old, new, again = ask_old(request), ask_new(request), ask_old(request)
            moves = old.compared != again.compared
            if old.still != new.still or (not moves and old.compared != new.compared):
                yield Difference(request, old, new)


def print_comparison(old: Version) -> bool:
    """Compare, and print the differences; return True if there are none."""
    began = time.perf_counter()
    count, found = compare_corpora(old)
    elapsed = time.perf_counter() - began
    print(f"{count:,} answers compared in {elapsed:.0f} s, {len(found)} differ.")
    print("Not compared:", *(f"{path} ({reason});" for path, reason in LEFT_OUT.items()))
    for difference in found[:PRINTED]:
        print(difference)
    return not found
