"""The first page after a start of the service, on a ledger of 10,000 lines."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.support.browser import sign_in, watched
from tests.support.embedded import folder_in_tmp
from tests.support.facts import ORGANIZATION, activation, encode, fact
from tests.support.served import Served, free_port, run_ledger

LINES = 10_000
STARTS = 3

# The first paint of a page may be reported alone, before the first paint of content.
_PAINTED = """() => new Promise((resolve) => new PerformanceObserver((list) => {
    const [painted] = list.getEntriesByName('first-contentful-paint')
    if (painted) resolve(painted.startTime)
}).observe({ type: 'paint', buffered: true }))"""


@pytest.fixture(scope="module")
def address() -> str:
    """The address at which the service will listen."""
    return f"http://127.0.0.1:{free_port()}"


def facts() -> Iterator[dict[str, object]]:
    """Facts about running, blocked and paused lines."""
    for number in range(1, LINES + 1):
        line_id = f"LIN-26-{number:06}"
        yield activation(line_id, organization_id=ORGANIZATION)
        if number % 10 == 0:
            data = {"blocker_id": "B", "cause": "approval_gap", "reason": "Waiting"}
            yield fact("execution.blocked", line_id, data)
        if number % 10 == 1:
            yield fact("service_line.paused", line_id, {"reason": "Review"})


@pytest.mark.soak
def test_the_board_is_painted_within_a_second(chromium: Browser, address: str) -> None:
    port = int(address.rsplit(":", 1)[1])
    with folder_in_tmp(0o755) as folder, watched(chromium, address) as watch:
        story = folder / "story.jsonl"
        story.write_bytes(b"\n".join(map(encode, facts())))
        with Served(folder / "data", port) as served:
            done = run_ledger(served.environment, "import", str(story))
            assert done.returncode == 0, done.stderr
            page = watch.context.new_page()
            sign_in(page, served.token())
            expect(page.locator(".tile").last).to_contain_text("10,000")
            page.close()
        first, later = [], []
        for _ in range(STARTS):
            with Served(folder / "data", port):
                for paints in (first, later):
                    page = watch.context.new_page()
                    page.goto("/ui")
                    paints.append(page.evaluate(_PAINTED))
                    expect(page.locator(".tile.s-blocked")).to_contain_text("1,000")
                    page.close()
    print(f"first paint after {sorted(first)} ms on a cold start, then after {sorted(later)} ms")
    # The fastest start counts: other work on the machine can only slow a start down.
    assert min(first) < 1000
