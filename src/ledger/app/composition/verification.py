"""The verification of the tables beside the log, with the features' own."""

from collections.abc import Callable
from datetime import datetime, time
from functools import partial
from pathlib import Path

from ledger.app.features import projections
from ledger.engine.log.vault import Vault
from ledger.engine.writer.periodic import LeaderSession
from ledger.features.proof.verification import derived
from ledger.features.proof.verification.nightly import NightlyVerification
from ledger.features.usage.reads.issued_documents import IssuedDocuments
from ledger.features.webhooks.delivery.identities import DeliveryIdentities

compare = partial(derived.compare, documents=IssuedDocuments, deliveries=DeliveryIdentities)


def nightly_verification(
    session: LeaderSession,
    vault: Vault,
    folder: Path,
    at: time | None,
    clock: Callable[[], datetime],
) -> NightlyVerification:
    return NightlyVerification(session, vault, folder, at, clock, compare, projections())
