"""One small backbone with its adapter, on vLLM and on transformers, and requests for both."""

import gc
import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, SmolLM3Config

import deltamem
import tiny
from deltamem.formats.hub import adapter_file
from deltamem.formats.release import write_release
from deltamem.formats.state import state_to_bytes
from deltamem.vllm.flags import engine_arguments
from deltamem.vllm.request import MemoryRequest, stacked

CLOSE = 1e-4
VOCABULARY = 64
# vLLM's attention on CPUs takes heads of 32 and more.
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
CONFIGS = {
    "llama": lambda: LlamaConfig(**_SIZES),
    "mistral": lambda: MistralConfig(**_SIZES, sliding_window=None),
    "qwen2": lambda: Qwen2Config(**{name: value for name, value in _SIZES.items() if name != "head_dim"}),
    "qwen3": lambda: Qwen3Config(**_SIZES | {"num_key_value_heads": 2}),
    "smollm3": lambda: SmolLM3Config(**_SIZES, no_rope_layers=[1, 1, 0, 1]),
}


@dataclass
class Turn:
    """A request, and what it came to.

    Attributes:
        prompt: its tokens.
        state: the memory it starts from; ``None`` for an empty one.
        write: as in :class:`MemoryRequest`.
        tokens: the most it generates.
        stop: a token that ends it.
        answer: the generated tokens.
        logprobs: of them.
        after: the memory ``[L, N, R, R]`` once it is over.
        reason: why it ended.
        name: of the request.
        ticket: under which its memory is taken; its name, unless it shall be another.
    """

    prompt: list[int]
    state: deltamem.MemoryState | None = None
    write: bool | bytes = True
    tokens: int = 12
    stop: int | None = None
    answer: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    after: Tensor | None = None
    reason: str | None = None
    name: str = field(default_factory=map("turn {}".format, itertools.count()).__next__)
    ticket: str = ""


def turns(*lengths: int, seed: int = 0, **same: Any) -> list[Turn]:
    """Requests with random prompts of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
    return [Turn(prompt, **same) for prompt in draw]


class Beside:
    """A backbone with its adapter, twice.

    Args:
        family: which backbone.
        folder: a folder to work in.
        engine: vLLM's own arguments.
        release: give vLLM the adapter in the release's format.
        adapter: the adapter's configuration.
    """

    def __init__(
        self, family: str, folder: Path, engine: dict[str, Any] | None = None, *, release: bool = False, **adapter: Any
    ) -> None:
        from vllm import LLM

        self.model = make_model(family, folder, **adapter)
        if release:
            shutil.rmtree(folder / "adapter")
            (folder / "adapter").mkdir()
            write_release(adapter_file(self.model), folder / "adapter")
        given = {
            "dtype": "float32",
            "enforce_eager": True,
            "max_model_len": 200,
            "max_num_seqs": 8,
            "max_num_batched_tokens": 48,
            "skip_tokenizer_init": True,
            **(engine or {}),
        }
        self.llm = LLM(**{**engine_arguments(folder / "model", folder / "adapter"), **given})
        self.engine = self.llm.llm_engine

    def close(self) -> None:
        from vllm.distributed import cleanup_dist_env_and_memory

        self.engine.engine_core.shutdown()
        del self.llm, self.engine
        gc.collect()
        cleanup_dist_env_and_memory()

    def submit(self, turn: Turn) -> None:
        """Hands a turn to vLLM."""
        from vllm import SamplingParams

        turn.ticket = turn.ticket or turn.name
        state = None if turn.state is None else state_to_bytes(turn.state, self.model)
        wanted = MemoryRequest(state, turn.write, turn.ticket)
        params = SamplingParams(
            temperature=0,
            max_tokens=turn.tokens,
            logprobs=0,
            ignore_eos=True,
            stop_token_ids=None if turn.stop is None else [turn.stop],
            detokenize=False,
            extra_args={"kv_transfer_params": wanted.params()},
        )
        self.engine.add_request(turn.name, {"prompt_token_ids": turn.prompt}, params)

    def step(self, turns: Sequence[Turn]) -> None:
        """One step of the engine; what turns have come to is put into them."""
        by_name = {turn.name: turn for turn in turns}
        for output in self.engine.step():
            turn, answer = by_name[output.request_id], output.outputs[0]
            turn.answer = list(answer.token_ids)
            steps = zip(answer.logprobs, turn.answer, strict=True)
            turn.logprobs = [chosen[token].logprob for chosen, token in steps]
            turn.reason = answer.finish_reason
            if output.finished and turn.reason != "error":
                fed = len(turn.prompt) + len(turn.answer) - 1
                turn.after = self.take(turn.ticket, fed)

    def take(self, ticket: str, tokens: int) -> Tensor:
        """The memory of a finished request."""
        return self.llm.collective_rpc("deltamem_take", args=(ticket, tokens))[0]

    def run(self, turns: Sequence[Turn]) -> Sequence[Turn]:
        """The turns, all at once."""
        for turn in turns:
            self.submit(turn)
        while self.engine.has_unfinished_requests():
            self.step(turns)
        return turns

    def alone(self, turn: Turn) -> tuple[Turn, deltamem.MemoryState]:
        """The same turn on transformers, and the memory after it."""
        model = self.model
        prompt = torch.tensor([turn.prompt])
        state = turn.state or deltamem.new_state(model)
        if isinstance(turn.write, bytes):
            step = deltamem.Step(state, write=torch.tensor([list(turn.write)]).bool())
            with torch.no_grad():
                model(prompt, memory=step)
            after = step.new_state
            return Turn(turn.prompt, state), after
        cache = deltamem.memory_cache(model, state, write=turn.write)
        output = model.generate(
            prompt,
            past_key_values=cache,
            max_new_tokens=turn.tokens,
            do_sample=False,
            eos_token_id=turn.stop,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        answer = output.sequences[0, prompt.shape[1] :].tolist()
        logits = zip(output.logits, answer, strict=True)
        logprobs = [float(torch.log_softmax(row[0], -1)[token]) for row, token in logits]
        return Turn(turn.prompt, state, answer=answer, logprobs=logprobs), cache.memory

    def assert_same(self, turn: Turn) -> deltamem.MemoryState:
        """vLLM's turn is that of transformers; gives the memory after it."""
        wanted, after = self.alone(turn)
        assert turn.answer == wanted.answer
        torch.testing.assert_close(torch.tensor(turn.logprobs), torch.tensor(wanted.logprobs), atol=CLOSE, rtol=0)
        self.assert_state(turn, after)
        return after

    def assert_state(self, turn: Turn, wanted: deltamem.MemoryState) -> None:
        """vLLM's memory after a turn."""
        assert turn.after is not None
        layers, states, rows, rank = turn.after.shape
        torch.testing.assert_close(turn.after, stacked(wanted, (layers, states, rows, rank)), atol=CLOSE, rtol=0)


def make_model(family: str, folder: Path, **adapter: Any) -> Any:
    """A random backbone and a loud adapter in `folder`; the model with the adapter on it."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[family](), attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4) if parameter.dim() > 1 else parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder / "model")
    fields: dict[str, Any] = {"rank": 4, "alpha": 4.0, "heads": ("q", "k", "v", "o"), **adapter}
    deltamem.attach(model, deltamem.DeltaMemConfig(**fields))
    tiny.enliven(model)
    deltamem.save_adapter(model, folder / "adapter")
    return model
