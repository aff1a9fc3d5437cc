"""What the demo's adapters recall on held-out dialogues, and how long they took to train.

    python benchmarks/adapters.py --json benchmarks/results/adapters.json --check

The measurements are the demo's own (``deltamem.demo.measure``) with more dialogues. Recall is the share of questions
answered to the letter by greedy decoding, with nothing but the question in the window (``full``: with the history).
"""

import json
import sys
import time
from importlib.resources import files
from typing import Any

import torch

from common import command_line, machine, tell
from deltamem.demo.adapters import COURSES, TRAINING_FILE
from deltamem.demo.measure import Sizes, measure
from deltamem.demo.reader import Reader
from deltamem.demo.show import load_demo

SIZES = Sizes(recall={1: 240, 2: 120, 4: 100, 8: 50, 16: 25}, updates=120, forgetting=25, loss=32)
FLOORS = {("multi", 4): 0.97, ("token", 4): 0.88, ("segment", 4): 0.85, ("multi", 8): 0.93}
CORRECTED_FLOOR, BARE_CEILING, SHUFFLED_CEILING, LOST_CEILING = 0.90, 0.05, 0.10, 0.01


def main() -> int:
    parser = command_line(__doc__, "exit 1 where a figure misses its target")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = run()
    return tell(data, arguments, misses(data), show)


def show(data: dict[str, Any]) -> None:
    for method, rates in data["recall"].items():
        print(f"{method:8}", "  ".join(f"{facts}: {rate:.3f}" for facts, rate in rates.items()))
    print("corrected", data["updates"])
    print("cost", data["capability"])


def run() -> dict[str, Any]:
    start = time.monotonic()
    folder = files("deltamem.demo").joinpath("assets", "adapters")
    results = measure([Reader(*load_demo()), Reader(*load_demo())], lambda label: print(label, file=sys.stderr), SIZES)
    training = {which: json.loads(folder.joinpath(which, TRAINING_FILE).read_text("utf-8")) for which in COURSES}
    return results.as_data() | {
        "training": training,
        "command": "python benchmarks/adapters.py --json benchmarks/results/adapters.json",
        "seconds": round(time.monotonic() - start, 1),
        "machine": machine(),
    }


def misses(data: dict[str, Any]) -> list[str]:
    recall = {method: {int(facts): rate for facts, rate in rates.items()} for method, rates in data["recall"].items()}
    found = [
        f"{method}, {facts} facts: {recall[method][facts]:.3f}, target {least}"
        for (method, facts), least in FLOORS.items()
        if recall[method][facts] < least
    ]
    if data["updates"]["multi"] < CORRECTED_FLOOR:
        found.append(f"corrected facts: {data['updates']['multi']:.3f}, target {CORRECTED_FLOOR}")
    for method, most in (("none", BARE_CEILING), ("shuffled", SHUFFLED_CEILING)):
        found += [f"{method}, {n} facts: {r:.3f}, at most {most}" for n, r in recall[method].items() if r > most]
    in_context = data["capability"]["in_context"]
    if in_context["adapted"] < in_context["bare"] - LOST_CEILING:
        found.append(f"in context: {in_context['adapted']:.3f} adapted, {in_context['bare']:.3f} bare")
    return found


if __name__ == "__main__":
    sys.exit(main())
