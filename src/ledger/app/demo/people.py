"""The people of the story sign in, so the audit log records it and pages show their names."""

import os
from collections.abc import Mapping
from datetime import datetime, timedelta

from ledger.app.demo.telling import Stage
from ledger.engine.log.tables import PersonRow, SessionRow
from ledger.engine.values.principal import person
from ledger.engine.values.values import EARLIEST
from ledger.features.sign_in.commands import BeginSession, EndSession

_ISSUER = "https://id.example.com"

_PERMISSIONS = ("audit:read", "read", "service_lines:manage", "statements:issue", "watches:manage")

_WEEK = 604_800.0


class SignIns:
    """An act in which people sign in by their company's provider, and sign out again.

    ``names`` has each person's name by the ``sub``. No session remains.
    """

    def __init__(self, organization_id: str, names: Mapping[str, str], at: datetime) -> None:
        self._organization_id, self._names, self.at = organization_id, names, at

    def play(self, stage: Stage) -> None:
        for sub, name in self._names.items():
            who = person(sub, _PERMISSIONS, self._organization_id)
            email = f"{name.lower().replace(' ', '.')}@example.com"
            row, names = self._row(sub), PersonRow(sub, name, email, self.at, ())
            stage.execute(BeginSession(row, who, None, seconds=_WEEK, person=names))
            stage.execute(
                EndSession(row.session_id, who, None, by="self", person=(sub, row.issuer))
            )

    def _row(self, sub: str) -> SessionRow:
        return SessionRow(
            session_id=f"SES-{os.urandom(8).hex()}",
            secret_hash=os.urandom(32),
            by="provider",
            issuer=_ISSUER,
            sub=sub,
            sid=None,
            organization_id=self._organization_id,
            workspace_id=None,
            permissions=_PERMISSIONS,
            claims="{}",
            kept=b"",
            signed_at=self.at,
            checked_at=self.at,
            asked_at=EARLIEST,
            begun_at=self.at,
            ends_at=self.at + timedelta(seconds=_WEEK),
            browser="Firefox",
            network="192.0.2.0/24",
        )
