"""The OpenAPI document of a module's service."""

from typing import Any

import pytest

from tests.support.edge import Edge


@pytest.fixture(scope="module")
def document(edge: Edge) -> dict[str, Any]:
    answer: dict[str, Any] = edge.get("/openapi.json").json()
    return answer
