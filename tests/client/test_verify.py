"""Deliveries, proofs, checkpoints and statements are checked without a ledger."""

import base64
import builtins
import json
from typing import Any

import pytest
from execution_ledger import NotVerified, types, verify
from standardwebhooks import Webhook

BODY = (
    b'{"id":"EVT-26-000005","type":"execution.blocked","occurred_at":"2026-04-15T09:00:00Z",'
    b'"recorded_at":"2026-04-15T09:00:00Z","position":5,"actor":{"type":"user","id":"alice"},'
    b'"reported_by":"KEY-26-000001","subject":{"type":"service_line","id":"LIN-26-000042"},'
    b'"service_line_id":"LIN-26-000042","organization_id":"ORG-26-000001","workspace_id":null,'
    b'"causation_id":null,"payload":{"state_before":"running","state_after":"blocked",'
    b'"blocker_id":"POL-7","cause":"policy_violation","reason":null,"assignee":null,'
    b'"due_at":null},"fact":null,"sequence":1}'
)
SECRETS = [f"whsec_{base64.b64encode(bytes([n]) * 32).decode()}" for n in (1, 2, 3)]
NOW = 1_776_000_000


def headers_of(body: bytes, *secrets: str) -> dict[str, str]:
    """The headers of a delivery, signed by the reference library."""
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(NOW, UTC)
    signatures = [Webhook(secret).sign("EVT-26-000005", at, body.decode()) for secret in secrets]
    return {
        "Webhook-Id": "EVT-26-000005",
        "Webhook-Timestamp": str(NOW),
        "Webhook-Signature": " ".join(signatures),
    }


def test_a_signed_delivery_is_its_event() -> None:
    event = verify.webhook(BODY, headers_of(BODY, SECRETS[0]), SECRETS[0], now=NOW)
    assert isinstance(event, types.ExecutionBlockedEvent)
    assert event.payload.cause == "policy_violation"


def test_a_delivery_passes_while_its_secret_is_rotated() -> None:
    both = headers_of(BODY, SECRETS[0], SECRETS[1])
    for key in (SECRETS[0], SECRETS[1], [SECRETS[2], SECRETS[1]]):
        assert verify.webhook(BODY, both, key, now=NOW).position == 5


def test_a_cloudevent_is_the_event_in_it() -> None:
    body = b'{"specversion":"1.0","id":"EVT-26-000005","type":"execution.blocked","data":%b}' % BODY
    assert verify.webhook(body, headers_of(body, SECRETS[0]), SECRETS[0], now=NOW).position == 5


@pytest.mark.parametrize(
    ("body", "secret", "now", "changed"),
    [
        (BODY + b" ", SECRETS[0], NOW, {}),
        (BODY, SECRETS[1], NOW, {}),
        (BODY, SECRETS[0], NOW + 301, {}),
        (BODY, SECRETS[0], NOW - 301, {}),
        (BODY, SECRETS[0], NOW, {"Webhook-Id": "EVT-26-000006"}),
        (BODY, SECRETS[0], NOW, {"Webhook-Timestamp": str(NOW + 1)}),
        (BODY, SECRETS[0], NOW, {"Webhook-Timestamp": "soon"}),
        (BODY, SECRETS[0], NOW, {"Webhook-Signature": "v1,é"}),
        (BODY, "whsec_?", NOW, {}),
    ],
)
def test_anything_else_is_not_verified(
    body: bytes, secret: str, now: float, changed: dict[str, str]
) -> None:
    headers = headers_of(BODY, SECRETS[0]) | changed
    with pytest.raises(NotVerified):
        verify.webhook(body, headers, secret, now=now)


def test_a_signed_body_that_is_no_event_is_not_verified() -> None:
    for body in (b"[]", b"{}", b"no"):
        with pytest.raises(NotVerified):
            verify.webhook(body, headers_of(body, SECRETS[0]), SECRETS[0], now=NOW)


def test_proofs_need_a_package_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name == "execution_ledger" and more[2:] and more[2] == ("_verifier",):
            raise ImportError("no cryptography")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"execution-ledger-client\[verify\]"):
        verify.proof("{}", "key")


def test_a_file_that_proves_nothing_is_not_verified() -> None:
    for check in (verify.proof, verify.statement):
        with pytest.raises(NotVerified):
            check(json.dumps({"leaf": "AAAA"}), "origin+00000000+AA==")
    with pytest.raises(NotVerified, match="no signed note"):
        verify.checkpoint("note", "key")
