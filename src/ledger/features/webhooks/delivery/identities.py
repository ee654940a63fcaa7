"""Identities of failed deliveries, for their verification (contract, Proof).

An event does not contain the round of its attempts, so several identities are possible.
"""

from collections import defaultdict

from ledger.engine.values.recorded import Identity, Recorded
from ledger.features.webhooks.model.endpoint import (
    WebhookDeliveryFailed,
    WebhookRecoveryRequested,
    WebhookResendRequested,
)


class DeliveryIdentities:
    """The possible identities of failed deliveries, by the events so far."""

    def __init__(self) -> None:
        self._rounds: defaultdict[str, list[int]] = defaultdict(lambda: [0])
        """The rounds of an endpoint's attempts, by the positions of recoveries and resends."""

    def note(self, recorded: Recorded) -> bool:
        """Process an event; return True if it is a failed delivery."""
        if isinstance(recorded.body, WebhookRecoveryRequested | WebhookResendRequested):
            self._rounds[recorded.originator_id].append(recorded.position)
        return isinstance(recorded.body, WebhookDeliveryFailed)

    def possible(self, recorded: Recorded) -> list[bytes]:
        """The digests of an event's possible identities; empty unless it is a failed delivery."""
        body = recorded.body
        if not isinstance(body, WebhookDeliveryFailed):
            return []
        owner, endpoint = recorded.organization_id or "", recorded.originator_id
        rounds = (at for at in self._rounds[endpoint] if at < recorded.position)
        return [Identity.of_delivery(owner, endpoint, body.event_id, at).digest for at in rounds]
