"""vLLM's own server, with the flags and the route that the page on vLLM names."""

import base64
import contextlib
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import torch
from serving import PATIENCE_S
from talk import free_url

import deltamem
from deltamem.models.loading import load_model
from deltamem.vllm.flags import serve_command


def test_a_memory_goes_from_request_to_request(tmp_path: Path):
    url = free_url()
    command = [*serve_command("embedded", "multi"), "--port", url.rpartition(":")[2]]
    environment = os.environ | {"VLLM_PLUGINS": "deltamem", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    log = tmp_path / "log"
    with (
        log.open("wb") as out,
        subprocess.Popen(command, env=environment, stdout=out, stderr=out) as process,
        httpx.Client(base_url=url, timeout=PATIENCE_S) as client,
    ):
        try:
            _wait(client, process, log)
            model, tokenizer = load_model("embedded", "multi")
            told = tokenizer.apply_chat_template([{"role": "user", "content": "I settled in Lisbon some years ago."}])
            told = told["input_ids"] if not isinstance(told, list) else told
            first = {"write": True, "ticket": "first"}
            for more in ({"n": 2}, {"prompt": [told, told]}, {"use_beam_search": True}):
                refused = client.post("/v1/completions", json=_body(told, first, 4) | more)
                assert refused.status_code == 400, refused.text
                assert re.search("one answer|beam search", refused.json()["error"]["message"])
            assert client.get("/v1/deltamem/memories/first", params={"tokens": len(told) + 3}).status_code == 404
            several = client.post("/v1/completions", json=_body(told, {}, 4) | {"n": 2, "temperature": 1})
            assert len(several.json()["choices"]) == 2  # without a ticket they may be
            answer = _complete(client, told, first, 4)
            tokens = answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"] - 1
            got = client.get("/v1/deltamem/memories/first", params={"tokens": tokens})
            assert got.status_code == 200, got.text
            cache = deltamem.memory_cache(model)
            model.generate(torch.tensor([told]), past_key_values=cache, max_new_tokens=4, do_sample=False)
            (tmp_path / "memory").write_bytes(got.content)
            memory = deltamem.load_state(tmp_path / "memory", model)
            assert int(memory.tokens[0]) == tokens
            for mine, theirs in zip(memory.states, cache.memory.states, strict=True):
                torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)
            assert client.get("/v1/deltamem/memories/first", params={"tokens": tokens}).status_code == 404
            asked = tokenizer.apply_chat_template(
                [{"role": "user", "content": "Which city do I live in?"}], add_generation_prompt=True, tokenize=False
            )
            ids = tokenizer(asked, add_special_tokens=False)["input_ids"]
            state = base64.b64encode(got.content).decode()
            assert "Lisbon" in _complete(client, ids, {"state": state}, 12)["choices"][0]["text"]
            assert "Lisbon" not in _complete(client, ids, {}, 12)["choices"][0]["text"]
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()


def _wait(client: httpx.Client, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(httpx.TransportError):
            if client.get("/health").status_code == 200:
                return
        time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def _body(prompt: list[int], memory: dict[str, Any], tokens: int) -> dict[str, Any]:
    memories = {"kv_transfer_params": {"deltamem": memory}}
    return {"prompt": prompt, "max_tokens": tokens, "temperature": 0, **memories}


def _complete(client: httpx.Client, prompt: list[int], memory: dict[str, Any], tokens: int) -> dict[str, Any]:
    answer = client.post("/v1/completions", json=_body(prompt, memory, tokens))
    assert answer.status_code == 200, answer.text
    return answer.json()
