"""What a turn costs on vLLM after a long history: the history sent again, or a memory of it.

    python benchmarks/history_on_vllm.py --json benchmarks/results/history_on_vllm.json

Run it where vLLM is installed (docs/vllm.md). A turn is a message and an answer, after a history of some length:

- **sent**: stock vLLM reads history and message;
- **cached**: the same to a vLLM that still has the history's keys and values, by its prefix caching;
- **memory**: the backbone that remembers reads the message with a memory, and then writes message and answer to it, as
  two requests, as `deltamem serve` does;
- **own**: the same on deltamem's own engine.

Each engine has a process, and they take turns, so that a machine that slows down does so for all. Times are CPU time of
one thread, medians of the rounds, without torch.compile. What a session leaves behind is counted too: keys and values
of the history, or the file of the memory. SmolLM2 has 8,192 positions, so the histories are read by a backbone of its
shape with more, whose weights are random: they cost the same. `--positions 0` takes the model as it is.

    python benchmarks/history_on_vllm.py --draw benchmarks/results/history_on_vllm.json docs/images/history_on_vllm.png

draws what was measured; it needs matplotlib, not vLLM.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from common import command_line, machine, tell
from on_vllm import median_of, open_llm, open_own, processes

KINDS = ("stock", "delta", "own")


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--model", default="smollm2", help="as deltamem serve takes it")
    parser.add_argument("--adapter", default="multi")
    parser.add_argument(
        "--histories", type=int, nargs="+", default=[256, 1024, 2048, 4096, 8192, 16384], help="tokens before a turn"
    )
    parser.add_argument("--positions", type=int, default=32768, help="of a random backbone of the model's shape")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a message")
    parser.add_argument("--answer", type=int, default=32, help="tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--draw", nargs=2, type=Path, metavar=("JSON", "PNG"), help="draw figures instead of measuring")
    parser.add_argument("--beside", default="", help="what else the machine does, for the file")
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw:
        return draw(*options.draw)
    if options.serve:
        return serve(options)
    report = {"machine": machine() | {"beside": options.beside}} | {
        name: getattr(options, name) for name in ("model", "adapter", "positions", "prompt", "answer", "rounds")
    }
    report["histories"] = measure(options)
    return tell(report, options)


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The figures of a turn for each history."""
    rounds: dict[int, list[dict[str, float]]] = {history: [] for history in options.histories}
    with (
        tempfile.TemporaryDirectory() as folder,
        processes(KINDS, min(options.histories), *backbone(options, Path(folder))) as ask,
    ):
        for number in range(options.rounds):
            for history in options.histories:
                found: dict[str, float] = {}
                for kind in KINDS if number % 2 == 0 else reversed(KINDS):
                    found |= ask(kind, history)
                rounds[history].append(found)
    return {str(history): median_of(found) for history, found in rounds.items()}


def backbone(options: argparse.Namespace, folder: Path) -> list[str]:
    """What tells a process which model and adapter it runs; the random one is made in a folder."""
    if not options.positions:
        return []
    from transformers import AutoModelForCausalLM

    from deltamem.models.loading import find_adapter, load_config, load_tokenizer

    torch.manual_seed(0)
    config = load_config(options.model)
    config.max_position_embeddings = options.positions
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    load_tokenizer(options.model).save_pretrained(folder)
    return ["--model", str(folder), "--adapter", str(find_adapter(options.model, options.adapter))]


def serve(options: argparse.Namespace) -> int:
    """Measures turns after each history whose length is read."""
    turns: Any = {"stock": Stock, "delta": Remembering, "own": Own}[options.serve](options)
    for line in sys.stdin:
        print(json.dumps(turns.measure(int(line))), flush=True)
    return 0


def some_tokens(count: int, number: int) -> list[int]:
    """So many tokens; other numbers, other tokens."""
    return [3 + (7919 * number + 5 * place + place // 89) % 1000 for place in range(count)]


class Turns:
    """What both kinds do: run a request, and clock it in CPU time.

    Args:
        options: of the command.
        more: as :func:`on_vllm.open_llm` takes it.
    """

    def __init__(self, options: argparse.Namespace, **more: Any) -> None:
        context = max(options.histories) + options.prompt + options.answer + 1
        self.llm = open_llm(options, context=context, most=1, **more)
        self.options = options
        self._asked = 0

    def fresh(self, count: int) -> list[int]:
        """So many tokens that were not sent before."""
        self._asked += 1
        return some_tokens(count, self._asked)

    def run(self, prompt: list[int], tokens: int, memory: Any = None) -> tuple[float, float, list[int]]:
        """CPU seconds until the first token and to the end, and the answer."""
        from vllm import SamplingParams

        engine = self.llm.llm_engine
        extra = None if memory is None else {"kv_transfer_params": memory.params()}
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False, extra_args=extra)
        begun, first, answer = time.process_time(), 0.0, []
        engine.add_request(str(time.monotonic_ns()), {"prompt_token_ids": prompt}, params)
        while engine.has_unfinished_requests():
            for output in engine.step():
                first = first or time.process_time() - begun
                answer = list(output.outputs[0].token_ids)
        return first, time.process_time() - begun, answer


class Stock(Turns):
    """vLLM as it comes, with prefix caching, which is emptied where a history shall not be there any more."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options, remembers=False, enable_prefix_caching=True)

    def measure(self, history: int) -> dict[str, float]:
        """A turn that reads the history, and one that finds it in the cache."""
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not empty its prefix cache.")
        before, figures = self.fresh(history), {}
        for name in ("sent", "cached"):
            first, spent, _ = self.run(before + self.fresh(self.options.prompt), self.options.answer)
            figures |= {f"{name}_first_token_s": first, f"{name}_turn_s": spent}
        config = self.llm.llm_engine.model_config.hf_config
        width = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
        return figures | {"keys_and_values_bytes": history * config.num_hidden_layers * 2 * width * 4}


class Remembering(Turns):
    """The backbone that remembers. What was said before is in its memory, whose size does not depend on it."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options, remembers=True)
        _, self._memory = self._write(None, self.fresh(min(options.histories)))

    def measure(self, history: int) -> dict[str, float]:
        """A turn with a memory, and the writing of it."""
        from deltamem.vllm.request import MemoryRequest

        message = self.fresh(self.options.prompt)
        first, spent, answer = self.run(message, self.options.answer, MemoryRequest(self._memory))
        writing, memory = self._write(self._memory, message + answer)
        return {"memory_first_token_s": first, "memory_turn_s": spent + writing, "memory_bytes": len(memory)}

    def _write(self, memory: bytes | None, tokens: list[int]) -> tuple[float, bytes]:
        from deltamem.vllm.request import MemoryRequest

        begun = time.process_time()
        self.run(tokens, 1, MemoryRequest(memory, bytes([1]) * len(tokens), "turn"))
        found = self.llm.collective_rpc("deltamem_take_file", args=("turn", len(tokens)))[0]
        if isinstance(found, str):
            raise RuntimeError(found)
        return time.process_time() - begun, found


class Own:
    """deltamem's own engine, with a memory too."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.engine = open_own(options, most=1)
        self.options = options
        self._asked = 0
        self._state = self._write(None, some_tokens(min(options.histories), 0))

    def measure(self, history: int) -> dict[str, float]:
        """A turn with a memory, and the writing of it."""
        from deltamem.serve.engine.jobs import Piece, results
        from deltamem.serve.engine.sampling import Sampling

        self._asked += 1
        message = some_tokens(self.options.prompt, self._asked)
        how = Sampling(max_tokens=self.options.answer, temperature=0, ignore_end=True)
        begun, after = time.process_time(), []

        def start(deliver: Any) -> Any:
            def timed(event: Any) -> None:
                after.append(time.process_time() - begun)
                deliver(event)

            return self.engine.generate(message, how, timed, state=self._state)

        answer = [event.chosen.token for event in results(start) if isinstance(event, Piece)]
        self._write(self._state, message + answer)
        return {"own_first_token_s": after[0], "own_turn_s": time.process_time() - begun}

    def _write(self, state: Any, tokens: list[int]) -> Any:
        from deltamem.serve.engine.jobs import Written, results

        ids = torch.tensor([tokens])
        all_of_them = torch.ones_like(ids, dtype=torch.bool)
        one = torch.zeros_like(ids)
        (event,) = results(lambda deliver: self.engine.write(ids, one, all_of_them, deliver, state=state))
        assert isinstance(event, Written)
        return event.state


def draw(measured: Path, picture: Path) -> int:
    """Seconds of a turn against the length of the history."""
    from matplotlib.figure import Figure

    found = json.loads(measured.read_text("utf-8"))["histories"]
    figure = Figure(figsize=(6.4, 3.6), dpi=100, layout="constrained")
    axes = figure.subplots()
    lengths = [int(length) for length in found]
    for name, label, style in (
        ("sent", "history sent again, stock vLLM", {"color": "#000000"}),
        ("cached", "the same, its keys and values cached", {"color": "#000000", "linestyle": ":"}),
        ("memory", "memory, on vLLM", {"color": "#0072B2"}),
        ("own", "memory, own engine", {"color": "#D55E00"}),
    ):
        axes.plot(
            lengths, [found[str(length)][f"{name}_turn_s"] for length in lengths], marker="o", label=label, **style
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths], fontsize=8)
    seconds = [2, 5, 10, 20, 50, 100, 200]
    axes.set_yticks(seconds, [str(each) for each in seconds])
    axes.minorticks_off()
    axes.set_xlabel("tokens of history")
    axes.set_ylabel("a turn, seconds of CPU")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
