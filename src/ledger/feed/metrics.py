"""The metric of webhook deliveries (contract, Health)."""

from prometheus_client import Counter

from ledger.feed.verdict import Verdict

_DELIVERIES = Counter(
    "ledger_webhook_deliveries",
    "Answered or failed attempts at deliveries, by what became of the delivery.",
    ["outcome"],
)

_DELIVERED, _RETRYING, _FAILED = map(_DELIVERIES.labels, ("delivered", "retrying", "failed"))
_BY_STATUS = {"delivered": _DELIVERED, "pending": _RETRYING, "failed": _FAILED}


def count_result(verdict: Verdict) -> None:
    """Count a recorded attempt. Tests, whose results have no consequences, are not counted."""
    # A delivery that is given up counts once the log has its failure.
    if not (verdict.gives_up or verdict.result.claimed.is_test):
        _BY_STATUS[verdict.result.status].inc()


def count_failure() -> None:
    """Count a delivery that failed for good."""
    _FAILED.inc()
