"""Settings: the only reader of the environment. Each variable has the prefix ``LEDGER_``."""

from datetime import timedelta
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What an operator can set. The README lists every field."""

    model_config = SettingsConfigDict(env_prefix="LEDGER_", frozen=True)

    database_url: str | None = Field(
        default=None, description="A PostgreSQL 15+ URL. Unset: an embedded server in the data dir."
    )
    data_dir: Path = Field(
        default=Path(".ledger"), description="Where the embedded server and the master key live."
    )
    master_key: str | None = Field(
        default=None,
        description="64 hexadecimal digits that wrap every run's key. Unset: a 0600 file.",
    )
    idle_after_agent_runtime: int = Field(
        default=900, ge=1, description="Seconds without activity until an agent line is idle."
    )
    idle_after_default: int = Field(
        default=86_400, ge=1, description="The same for lines of every other model."
    )
    idle_sweep_seconds: float = Field(
        default=5, gt=0, description="How often lines that have become idle are looked for."
    )

    def idle_after(self, execution_model: str) -> timedelta:
        """How long a line of this model may be quiet before it is idle (contract 3)."""
        if execution_model == "agent_runtime":
            return timedelta(seconds=self.idle_after_agent_runtime)
        return timedelta(seconds=self.idle_after_default)
