"""Agents of OpenAI's library, offline: a test sets the answers of their model."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx2

Says = dict[str, Any] | str | None
"""The arguments of the agent's only tool, a text, or a refusal."""

ASKS: list[Says] = [{"input": "What is 6 x 7?"}, {"a": 6, "b": 7}, "42", "It is 42."]
"""The boss asks the helper, who uses a tool and answers."""

HANDS_OVER: list[Says] = [{}, {"a": 6, "b": 7}, "It is 42."]
"""The boss hands over to the helper."""

FAILS: list[Says] = [None]
"""The boss gets no answer."""


async def work(says: list[Says]) -> None:
    """Let the boss work, who has a helper, until the end or the model's refusal."""
    # The imports take a second, in each test process if they were at the top.
    from agents import Agent, OpenAIResponsesModel, Runner, function_tool
    from openai import AsyncOpenAI, BadRequestError

    transport = httpx2.MockTransport(answers(iter(says)))
    async with AsyncOpenAI(
        api_key="none",
        base_url="http://model.invalid",
        http_client=httpx2.AsyncClient(transport=transport),
        max_retries=0,
    ) as client:
        model = OpenAIResponsesModel(model="m", openai_client=client)
        helper = Agent(name="helper", model=model, tools=[function_tool(multiply)])
        boss = Agent(name="boss", model=model)
        if says is HANDS_OVER:
            boss.handoffs = [helper]
        else:
            boss.tools = [helper.as_tool("ask_helper", "Ask the helper.")]
        with suppress(BadRequestError):
            await Runner.run(boss, "What is 6 x 7?")


def multiply(a: int, b: int) -> int:
    """Multiply."""
    return a * b


def answers(says: Iterator[Says]) -> Callable[[httpx2.Request], httpx2.Response]:
    """The model's answers. The n-th one uses 2·10ⁿ tokens of input, and 10ⁿ of output."""
    used = 1

    def answer(request: httpx2.Request) -> httpx2.Response:
        nonlocal used
        text = next(says)
        if text is None:
            return httpx2.Response(400, json={"error": {"message": "The context is too long."}})
        output: dict[str, Any] = {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": text, "annotations": []}],
        }
        if isinstance(text, dict):
            body = json.loads(request.content)
            output = {"type": "function_call", "name": body["tools"][0]["name"]}
            output |= {"call_id": f"call-{used}", "arguments": json.dumps(text)}
        usage = {
            "input_tokens": 2 * used,
            "input_tokens_details": {"cached_tokens": used, "cache_write_tokens": 0},
            "output_tokens": used,
            "output_tokens_details": {"reasoning_tokens": used},
            "total_tokens": 3 * used,
        }
        completion = {
            "id": f"answer-{used}",
            "object": "response",
            "created_at": 1,
            "model": "m-1",
            "status": "completed",
            "output": [output | {"id": f"output-{used}", "status": "completed"}],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": usage,
        }
        used *= 10
        return httpx2.Response(200, json=completion)

    return answer
