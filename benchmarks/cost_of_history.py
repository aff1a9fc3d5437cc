"""What a turn costs when the whole history is sent again, and when it is in a memory.

    python benchmarks/cost_of_history.py --json - --plot docs/images/cost_of_history.png

Two ways to answer the same message with the same number of tokens after a history of so many tokens. ``resent``: the
bare backbone reads all of the history before the message. ``memory``: the adapter's memory has read the history once;
the turn reads the message and writes the turn. Up to 448 tokens this is the embedded backbone; beyond the positions
that it has, a backbone of the same shape with more positions and random weights, which costs the same and says
nothing of use. Times are this process's CPU time, each the median of rounds in which the cases take turns.
``kv_bytes`` is what a server would have to keep for a session instead, if it kept the keys and values to read nothing
twice.
"""

import copy
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3ForCausalLM

import deltamem
from common import command_line, machine, tell, timed
from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone

ASKED = "Where do I live?"
ANSWER = {"do_sample": False, "min_new_tokens": 16, "max_new_tokens": 16}
EMBEDDED = [64, 128, 256, 448]
BEYOND = [1024, 2048, 4096, 8192]


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--longest", type=int, default=BEYOND[-1], help="tokens of history, at most")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw both curves to a PNG file")
    options = parser.parse_args()

    torch.set_num_threads(1)
    model, tokenizer = load_backbone()
    longer = same_shape(model, options.longest + 256)
    load_demo_adapter(model, "multi")
    adapter = deltamem.attached(model).config
    deltamem.attach(longer, copy.deepcopy(adapter))
    cases = [measured(model, tokenizer, EMBEDDED, options.rounds, "embedded")]
    beyond = [length for length in BEYOND if length <= options.longest]
    cases.append(measured(longer, tokenizer, beyond, options.rounds, "random weights"))
    report = {
        "machine": machine(),
        "rounds": options.rounds,
        "answer_tokens": ANSWER["max_new_tokens"],
        "state_bytes": deltamem.new_state(model, 1).nbytes,
        "cases": [case for part in cases for case in part],
    }
    if options.plot:
        draw(report, options.plot)
    return tell(report, options)


def same_shape(model: Any, positions: int) -> Any:
    """A backbone like ``model`` with more positions and random weights."""
    config = copy.deepcopy(model.config)
    config.max_position_embeddings = positions
    torch.manual_seed(0)
    return Qwen3ForCausalLM(config).eval()


def measured(model: Any, tokenizer: Any, lengths: list[int], rounds: int, weights: str) -> list[dict[str, Any]]:
    """Both ways at every length."""
    cases, works = [], []
    for length in lengths:
        works.append(turns_after(model, tokenizer, history_of(tokenizer, length)))
        cases.append({"history_tokens": length, "weights": weights, "kv_bytes": length * kv_bytes(model)})
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in works]
    for round_ in range(rounds + 1):
        for pair, taken in zip(works, times, strict=True):
            for work, series in zip(pair, taken, strict=True):
                seconds = timed(work)
                if round_:  # the first one warms up
                    series.append(seconds)
    for case, (resent, memory) in zip(cases, times, strict=True):
        case["resent_ms"] = round(1000 * statistics.median(resent), 1)
        case["memory_ms"] = round(1000 * statistics.median(memory), 1)
        print(case, file=sys.stderr)
    return cases


def history_of(tokenizer: Any, length: int) -> torch.Tensor:
    """So many tokens ``[1, length]`` of a history."""
    text = tokenizer("I live in Lisbon. My cat is called Biscuit. It rained on Monday. ").input_ids
    return torch.tensor([(text * (length // len(text) + 1))[:length]])


def asked_ids(tokenizer: Any) -> torch.Tensor:
    """The message as a prompt ``[1, T]``."""
    asked = [{"role": "user", "content": ASKED}]
    return deltamem.encode_chat(tokenizer, asked, add_generation_prompt=True).input_ids


def turns_after(model: Any, tokenizer: Any, history: torch.Tensor) -> tuple[Callable[[], object], Callable[[], object]]:
    """A turn that reads the whole history again, and one of a memory that has read it."""
    session = deltamem.Session(model, tokenizer, deltamem.observe(model, history), window=0)
    return resend(model, torch.cat((history, asked_ids(tokenizer)), 1)), remember(session)


def resend(model: Any, ids: torch.Tensor) -> Callable[[], object]:
    """A turn of the bare backbone over the history and the message."""

    def turn() -> object:
        with torch.inference_mode(), deltamem.disabled(model):
            return model.generate(ids, attention_mask=torch.ones_like(ids), **ANSWER)

    return turn


def remember(session: deltamem.Session) -> Callable[[], object]:
    """A turn of a session that sees the message alone."""
    return lambda: session.reply(ASKED, **ANSWER)


def kv_bytes(model: Any) -> int:
    """Bytes of the keys and values of one token."""
    config = model.config
    return int(2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4)


def draw(report: dict[str, Any], path: Path) -> None:
    """Both curves in one picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), dpi=100, layout="constrained")
    axes = figure.subplots()
    cases = report["cases"]
    lengths = [case["history_tokens"] for case in cases]
    for name, label, colour in (
        ("resent_ms", "whole history sent again, bare backbone", "#000000"),
        ("memory_ms", f"memory of {report['state_bytes']:,} bytes, read and written", "#0072B2"),
    ):
        axes.plot(lengths, [case[name] for case in cases], "o-", color=colour, label=label)
    axes.axvline(512, color="#999999", linestyle=":")
    axes.annotate(
        "512 positions of the embedded backbone;\nbeyond: random weights",
        (540, 0.03),
        xycoords=("data", "axes fraction"),
        fontsize=8,
        color="#555555",
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths], fontsize=8)
    axes.set_xlabel("tokens of history")
    axes.set_ylabel("a turn of 16 tokens, ms of CPU")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
