"""Fields that several forms share."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

# Longer than the API's models allow: those refuse a value that is too long, and the page keeps it.
Typed = Annotated[str | None, Field(max_length=5000)]


def gathered(values: Mapping[str, Any], prefix: str, field: str) -> dict[str, Any]:
    """The values of a form, with one field for the boxes whose names have the prefix.

    The field has the names of the ticked boxes behind the prefix, separated by commas.
    """
    boxes = [name for name in values if name.startswith(prefix)]
    rest = {name: value for name, value in values.items() if name not in boxes}
    return rest | {field: ",".join(name.removeprefix(prefix) for name in boxes)}
