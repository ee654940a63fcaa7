"""The kinds of watches: a file each, and a row of the table (recipe: docs/extending.md)."""

from typing import get_args

from ledger.features.watches.kinds.base import Condition
from ledger.features.watches.kinds.blocker_open import BlockerOpen
from ledger.features.watches.kinds.health import HealthBelow
from ledger.features.watches.kinds.in_state import InState
from ledger.features.watches.kinds.no_activity import NoActivity
from ledger.features.watches.kinds.past_due import PastDue
from ledger.features.watches.kinds.run_open import RunOpen
from ledger.features.watches.kinds.runs_failing import RunsFailing
from ledger.features.watches.kinds.source_silent import SourceSilent
from ledger.features.watches.kinds.usage_over import UsageOver

AnyKind = (
    InState
    | BlockerOpen
    | PastDue
    | NoActivity
    | RunOpen
    | RunsFailing
    | HealthBelow
    | SourceSilent
    | UsageOver
)
"""The table of all kinds, in the order of OpenAPI and of the page's form."""

KINDS: tuple[type[Condition], ...] = get_args(AnyKind)
