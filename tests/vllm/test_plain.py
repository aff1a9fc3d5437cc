"""vLLM's own server, with the flags and the route that the page on vLLM names."""

import base64
import contextlib
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import torch
from serving import PATIENCE_S

import deltamem
from deltamem.models.loading import load_model
from deltamem.vllm.flags import serve_command


def test_a_memory_goes_from_request_to_request(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*serve_command("embedded", "multi"), "--port", str(port)]
    environment = os.environ | {"VLLM_PLUGINS": "deltamem", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    log = tmp_path / "log"
    with (
        log.open("wb") as out,
        subprocess.Popen(command, env=environment, stdout=out, stderr=out) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client,
    ):
        try:
            _wait(client, process, log)
            model, tokenizer = load_model("embedded", "multi")
            told = tokenizer.apply_chat_template([{"role": "user", "content": "I settled in Lisbon some years ago."}])
            told = told["input_ids"] if not isinstance(told, list) else told
            answer = _complete(client, told, {"write": True, "ticket": "first"}, 4)
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


def _complete(client: httpx.Client, prompt: list[int], memory: dict[str, Any], tokens: int) -> dict[str, Any]:
    body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "kv_transfer_params": {"deltamem": memory}}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()
