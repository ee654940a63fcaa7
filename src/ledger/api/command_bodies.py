"""The bodies of commands: their common form, and bodies of changes."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ledger.domain.values import TEXT
from ledger.intake.fact_types import Characters

Written = Annotated[str, Field(min_length=1, max_length=500), Characters(TEXT)]
"""A reason."""


class CommandBody(BaseModel):
    """A command's body."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Nothing(CommandBody):
    """A body without fields."""


class Reason(CommandBody):
    """The reason why a line is paused or resumed."""

    reason: Annotated[Written, Field(examples=["Waits for the client's approval"])]


class OptionalReason(CommandBody):
    """The reason why a line is resumed, if a reason is given."""

    reason: Annotated[Written | None, Field(examples=["Approved"])] = None


def _no_defaults(schema: dict[str, Any]) -> None:
    """Describe a body of changes: a field that is left out has no default, and one is needed."""
    schema["minProperties"] = 1
    for field in schema["properties"].values():
        field.pop("default", None)


class Changes(CommandBody):
    """The changes of a thing; a field that is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra=_no_defaults)

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("must name at least one field to change")
        return self

    @property
    def given(self) -> dict[str, Any]:
        """The fields that were sent."""
        return {name: getattr(self, name) for name in self.model_fields_set}
