"""Energy a turn: of a memory, of a history that is sent again, and of keys and values that are kept.

    python benchmarks/questions/energy.py --watts 5 --json benchmarks/results/questions/energy.json \
        --plot docs/images/questions/energy.png

The turns are those of ``benchmarks/cost_of_history.py``, on the embedded backbone where the history fits its positions
and beyond on one of its shape with random weights. ``kept`` is what a server does that keeps a history's keys and
values: it reads nothing twice and attends to all of it. Its cache is that of ``transformers``, which copies what it
holds at every token.

Joules are those of the processor's own counters (RAPL, ``/sys/class/powercap``), which count everything that runs on
it. Where they cannot be read, or ``--watts`` is given, they are CPU seconds times the stated power of one busy core;
the output says which. Each figure is the median of rounds in which all turns take turns.
"""

import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

if not __package__:
    sys.path[0] = str(Path(__file__).parents[1])

import torch

import deltamem
from common import timed
from cost_of_history import ANSWER, EMBEDDED, asked_ids, history_of, kv_bytes, same_shape, turns_after
from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone
from questions.common import arguments, finish, legend_below, panels, parse

LENGTHS = (300, 1_000, 2_000, 4_000, 8_000, 16_000)
ROOT = Path("/sys/class/powercap")
LOOKS = {
    "resent": ("whole history sent again, bare backbone", "#000000", "--"),
    "kept": ("keys and values kept, bare backbone", "#999999", "--"),
    "memory": ("memory, read and written", "#0072B2", "-"),
}
_LEAST_SECONDS = 0.2

Turn = Callable[[], object]


class Meter(Protocol):
    """Joules of a turn, and how they are come by."""

    source: str

    def joules(self, turn: Turn) -> float:
        """What one turn takes."""


@dataclass(frozen=True)
class Stated:
    """CPU seconds times a stated power.

    Args:
        watts: of one busy core.
    """

    watts: float

    @property
    def source(self) -> str:
        """For the report."""
        return f"CPU seconds × {self.watts:g} W, the stated power of a busy core"

    def joules(self, turn: Turn) -> float:
        """What one turn takes."""
        return timed(turn) * self.watts


class Rapl:
    """The processor's energy counters, one a package, in microjoules.

    Args:
        root: the folder in which the kernel shows them.

    Raises:
        OSError: there are none, or they cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self._packages = [path for path in sorted(root.glob("intel-rapl:*")) if path.name.count(":") == 1]
        if not self._packages:
            raise FileNotFoundError(f"there are no energy counters in {root}")
        self._ranges = [int((package / "max_energy_range_uj").read_text()) for package in self._packages]
        self._read()
        self.source = f"RAPL, {len(self._packages)} packages, with all that runs on them"

    def joules(self, turn: Turn) -> float:
        """What one turn takes, over as many as last long enough for the counters, which move once a millisecond."""
        before, started, turns = self._read(), time.monotonic(), 0
        while not turns or time.monotonic() - started < _LEAST_SECONDS:
            turn()
            turns += 1
        pairs = zip(before, self._read(), self._ranges, strict=True)
        return sum((after - start) % (most + 1) for start, after, most in pairs) / 1e6 / turns

    def _read(self) -> list[int]:
        return [int((package / "energy_uj").read_text()) for package in self._packages]


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="tokens of history")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--watts", type=float, help="power of one busy core, in place of the counters")
    options = parse(parser, given)
    try:
        meter: Meter = Stated(options.watts) if options.watts else Rapl(ROOT)
    except OSError as error:
        parser.error(f"RAPL cannot be read here ({error}); give --watts, the power of one busy core.")
    report = measure(sorted(options.lengths), options.rounds, meter)
    for case in report["cases"]:
        joules = "".join(f"{name:>10} {case['joules'][name]:8.4f} J" for name in LOOKS)
        print(f"{case['history_tokens']:8,} tokens{joules}", file=sys.stderr)
    finish(report, options, draw)
    return 0


def measure(lengths: list[int], rounds: int, meter: Meter) -> dict[str, Any]:
    """Joules of the three ways at every length."""
    model, tokenizer = load_backbone()
    longer = same_shape(model, lengths[-1] + 256)
    load_demo_adapter(model, "multi")
    deltamem.attach(longer, copy.deepcopy(deltamem.attached(model).config))
    works, cases = [], []
    for length in lengths:
        fits = length <= EMBEDDED[-1]
        backbone = model if fits else longer
        works.append(turns(backbone, tokenizer, length))
        cases.append(
            {
                "history_tokens": length,
                "weights": "embedded" if fits else "random weights",
                "kv_bytes": length * kv_bytes(backbone),
            }
        )
    taken: list[dict[str, list[float]]] = [{name: [] for name in LOOKS} for _ in works]
    for round_ in range(rounds + 1):
        for work, series in zip(works, taken, strict=True):
            for name, turn in work.items():
                joules = meter.joules(turn)
                if round_:  # the first one warms up
                    series[name].append(joules)
    for case, series in zip(cases, taken, strict=True):
        case["joules"] = {name: round(statistics.median(values), 5) for name, values in series.items()}
    return {
        "source": meter.source,
        "rounds": rounds,
        "answer_tokens": ANSWER["max_new_tokens"],
        "state_bytes": deltamem.new_state(model, 1).nbytes,
        "cases": cases,
        "memory_cheaper_from": {name: crossing(cases, name) for name in ("resent", "kept")},
    }


def turns(model: Any, tokenizer: Any, length: int) -> dict[str, Turn]:
    """The three ways to take a turn after a history of so many tokens."""
    history = history_of(tokenizer, length)
    resent, memory = turns_after(model, tokenizer, history)
    return {"resent": resent, "kept": keep(model, history, asked_ids(tokenizer)), "memory": memory}


def keep(model: Any, history: torch.Tensor, asked: torch.Tensor) -> Turn:
    """A turn of the bare backbone that finds the keys and values of the history, and leaves them as they were."""
    with torch.inference_mode(), deltamem.disabled(model):
        cache = model.model(history, use_cache=True).past_key_values
    ids = torch.cat((history, asked), 1)

    def turn() -> None:
        with torch.inference_mode(), deltamem.disabled(model):
            model.generate(ids, attention_mask=torch.ones_like(ids), past_key_values=cache, **ANSWER)
        cache.crop(history.shape[1] - cache.get_seq_length())

    return turn


def crossing(cases: list[dict[str, Any]], other: str) -> int | None:
    """The shortest measured history from which on the memory takes fewer joules; none if the longest does not."""
    found = None
    for case in reversed(cases):
        if case["joules"]["memory"] >= case["joules"][other]:
            break
        found = case["history_tokens"]
    return found


def draw(report: dict[str, Any]) -> Any:
    """Joules a turn against the length of the history."""
    figure, (axes,) = panels(width=6.6, height=4.2)
    lengths = [case["history_tokens"] for case in report["cases"]]
    for name, (label, colour, dash) in LOOKS.items():
        joules = [case["joules"][name] for case in report["cases"]]
        axes.plot(lengths, joules, dash, color=colour, label=label, marker="o", markersize=4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.set_xlabel("tokens of history (above 448: random weights of the same shape)")
    axes.set_ylabel(f"joules a turn of {report['answer_tokens']} tokens")
    axes.set_title(report["source"], fontsize=9)
    legend_below(figure, axes, columns=1)
    return figure


if __name__ == "__main__":
    sys.exit(main())
