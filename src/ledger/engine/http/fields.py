"""The fields that several bodies have: texts of certain characters, labels, instants."""

from datetime import datetime
from typing import Annotated, Any, NamedTuple

from pydantic import (
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_after_validator_function

from ledger.engine.values.values import LABEL, TEXT, is_plain, parse_instant

NOT_PLAIN = {
    LABEL: "must not have control characters or bidirectional controls",
    TEXT: "must not have control characters but tabs and line ends, or bidirectional controls",
}
"""The sentence about a text that has other characters than those of the pattern."""


class Characters(NamedTuple):
    """The annotation of a text that has only the characters of ``LABEL``, or of ``TEXT``.

    (The sentence of pydantic's own ``pattern`` would be the pattern.)
    """

    pattern: str

    def __get_pydantic_core_schema__(self, kind: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(text: str) -> str:
            if not is_plain(text, self.pattern):
                raise ValueError(NOT_PLAIN[self.pattern])
            return text

        return no_info_after_validator_function(check, handler(kind))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "pattern": self.pattern}


def _instant(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("must be an RFC 3339 instant with an offset")
    return parse_instant(value)


Instant = Annotated[
    datetime, BeforeValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"})
]
MAX_LABEL = 200
Label = Annotated[str, Field(min_length=1, max_length=MAX_LABEL), Characters(LABEL)]
