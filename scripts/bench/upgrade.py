"""Waits until this version has taken over a ledger that another version has served."""

import json
import time

from corpus_request import Request, sending
from product import Product, UnmeasuredError

import projections

BUILT_WITHIN = 3600.0  # seconds for views that were built by another version
SEALED_WITHIN = 600.0


def await_views(product: Product) -> None:
    """Wait until every view is of this version and has the whole log. Raises if a view stopped."""
    wanted = {view.name: view.version for view in projections.projections()}
    deadline = time.monotonic() + BUILT_WITHIN
    with sending(product.port, {}) as send:
        while True:
            document = json.loads(send(Request("nobody", "/readyz")).body)
            views = document["projections"]
            current = [view for view in views if view["version"] == wanted[view["name"]]]
            # A view of another version stands still until it is rebuilt.
            if stopped := [view["name"] for view in current if view["stopped"]]:
                raise UnmeasuredError(f"stopped: {', '.join(stopped)}")
            behind = any(view["lag"] for view in views)
            if not behind and {view["name"]: view["version"] for view in views} == wanted:
                return
            if time.monotonic() > deadline:
                raise UnmeasuredError(f"the views are not built: {views}")
            time.sleep(0.05)


def await_shown(product: Product) -> None:
    """Wait until every view has the whole log."""
    deadline = time.monotonic() + BUILT_WITHIN
    with sending(product.port, {}) as send:
        while any(
            view["lag"]
            for view in json.loads(send(Request("nobody", "/readyz")).body)["projections"]
        ):
            if time.monotonic() > deadline:
                raise UnmeasuredError("the views do not reach the end of the log")
            time.sleep(0.05)


def await_sealed(product: Product) -> None:
    """Wait until the whole log is sealed: no work on earlier writes is left then."""
    keys = {"reader": product.key}
    deadline = time.monotonic() + SEALED_WITHIN
    with sending(product.port, keys) as send:
        while True:
            recorded, sealed = (
                int(send(Request("reader", path)).headers["ledger-position"])
                for path in ("/healthz", "/v1/log/checkpoint")
            )
            if recorded == sealed:
                return
            if time.monotonic() > deadline:
                raise UnmeasuredError(f"of {recorded:,} positions only {sealed:,} are sealed")
            time.sleep(0.05)
