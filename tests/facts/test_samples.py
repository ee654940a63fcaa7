"""The seed's samples: its facts lead to its answers, on the samples' day (contract, Reading)."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ledger.app.settings import Settings
from tests.support.service import Clock, Service, serving

SAMPLES = Path(__file__).parent.parent / "samples"
TENANT = {"organization_id": "ORG-26-090500", "workspace_id": None}


def sample(name: str) -> Any:
    return json.loads((SAMPLES / name).read_text())


def assert_shows(actual: Any, expected: Any, path: str = "") -> None:
    """Assert that the answer has every key and value of the sample; the contract has more keys."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert key in actual, f"{path}.{key}"
            assert_shows(actual[key], value, f"{path}.{key}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), path
        for index, value in enumerate(expected):
            assert_shows(actual[index], value, f"{path}[{index}]")
    else:
        assert actual == expected, path


def test_the_answers_have_every_key_and_value_of_the_samples(
    settings: Settings, conninfo: str
) -> None:
    async def acts() -> None:
        clock = Clock(datetime(2026, 4, 15, 9, 12, 45, tzinfo=UTC))
        async with serving(settings, conninfo, clock) as service:
            token = await service.token("read", "write", **TENANT)
            service.http.headers["authorization"] = f"Bearer {token}"
            await report_the_facts(service)

            listed = await service.get("/v1/execution?workspace_id=WS-26-000021&state=running")
            expected = sample("execution_list.json")
            assert_shows(listed["data"], expected["data"])
            assert listed["meta"]["has_more"] is False
            detail = await service.get("/v1/execution/LIN-26-084729")
            assert_shows(detail, sample("execution_detail.json"))

            clock.advance(seconds=2)
            await service.accept(sample("completion.json"))
            runs = await service.get("/v1/execution/LIN-26-091100/runs?limit=10")
            expected = sample("runs.json")
            assert_shows(runs["data"][: len(expected["data"])], expected["data"])
            assert runs["meta"]["has_more"] is True

    asyncio.run(acts())


async def report_the_facts(service: Service) -> None:
    facts = [json.loads(line) for line in (SAMPLES / "facts.jsonl").read_text().splitlines()]
    for start in range(0, len(facts), 1000):
        await service.accept(*facts[start : start + 1000])
