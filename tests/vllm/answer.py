"""Answers requests with vLLM's offline engine, in a process of its own: python answer.py REQUESTS.json ANSWERS.json.

REQUESTS.json: {"engine": arguments of LLM, "groups": [[request, ...], ...]}, a group being answered together. A
request is {"messages"} in the form of a chat, or {"prompt", "images"}; both with "max_tokens" and perhaps "adapter",
the folder of a LoRA adapter. Images are paths. ANSWERS.json: for each request of each group {"prompt_ids", "ids"}.
"""

import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image


def read(path: str) -> Image.Image:
    return Image.open(path).convert("RGB")


def chat_of(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns messages with the images that their paths name."""

    def part_of(part: dict[str, Any]) -> dict[str, Any]:
        return part if part["type"] == "text" else {"type": "image_pil", "image_pil": read(part["path"])}

    return [
        {**message, "content": message["content"]}
        if isinstance(message["content"], str)
        else {**message, "content": [part_of(part) for part in message["content"]]}
        for message in messages
    ]


def ask(llm: Any, requests: list[dict[str, Any]]) -> list[Any]:
    """Answers requests of one kind, together."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    options = [SamplingParams(temperature=0, max_tokens=request["max_tokens"]) for request in requests]
    adapters = [
        LoRARequest("adapter", 1, request["adapter"]) if request.get("adapter") else None for request in requests
    ]
    given = {"lora_request": adapters} if any(adapters) else {}
    if "messages" in requests[0]:
        return llm.chat([chat_of(request["messages"]) for request in requests], options, use_tqdm=False, **given)
    prompts = [
        {"prompt": request["prompt"], "multi_modal_data": {"image": [read(path) for path in request["images"]]}}
        for request in requests
    ]
    return llm.generate(prompts, options, use_tqdm=False, **given)


def main(source: str, target: str) -> None:
    from vllm import LLM

    task = json.loads(Path(source).read_text())
    llm = LLM(**task["engine"])
    answers = [
        [
            {"prompt_ids": list(output.prompt_token_ids), "ids": list(output.outputs[0].token_ids)}
            for output in ask(llm, group)
        ]
        for group in task["groups"]
    ]
    Path(target).write_text(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
