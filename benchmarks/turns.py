"""What a turn costs after a short and after a very long history, on the embedded backbone, on one thread.

    python benchmarks/turns.py --json benchmarks/results/turns.json --check

One session observes a stream of text; at every length in ``--lengths`` it is forked. The forks then answer the same
messages in turns, so that whatever else the machine does falls on all lengths alike. Times are this process's CPU time.
Peak memory is that of the whole process once the history is written.

The second part holds dialogues with facts twice, with the keys and values of the visible text kept from turn to turn
and with all of it read again each turn, and compares what is answered.
"""

import random
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

import deltamem
from common import command_line, machine, tell
from deltamem.demo.show import load_demo
from deltamem.demo.world import sample_dialogue

CEILINGS = {"turn_x": 1.1, "memory_x": 1.1}
ANSWER = {"do_sample": False, "min_new_tokens": 16, "max_new_tokens": 16}
ASKED = ("Where do I live?", "I have to clean the kitchen.", "What pet do I have?", "The bus was late on Monday.")


def main() -> int:
    parser = command_line(__doc__, f"exit 1 above the ceilings {CEILINGS}")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=40, help="turns at each length")
    parser.add_argument("--window", type=int, default=8, help="messages that stay visible")
    parser.add_argument("--dialogues", type=int, default=24, help="dialogues held with and without reuse")
    options = parser.parse_args()

    torch.set_num_threads(1)
    model, tokenizer = load_demo()
    report: dict[str, Any] = {"machine": machine(), "window": options.window, "ceilings": CEILINGS}
    report |= measure_turns(model, tokenizer, sorted(options.lengths), options.rounds, options.window)
    if options.dialogues:
        report["reuse"] = compare_reuse(model, tokenizer, options.dialogues)

    above = [f"{key} is {report[key]}, above {ceiling}" for key, ceiling in CEILINGS.items() if report[key] > ceiling]
    return tell(report, options, above, show)


def measure_turns(model: Any, tokenizer: Any, lengths: list[int], rounds: int, window: int) -> dict[str, Any]:
    """CPU time of a turn and peak memory, at every length of history."""
    session = deltamem.Session(model, tokenizer, window=window)
    text = Text(tokenizer)
    converse(session.fork(), rounds=len(ASKED))  # compiles, and reaches the memory that turns need anyway
    forks, cases = [], []
    for length in lengths:
        start = time.process_time()
        before = int(session.state.tokens)
        session.observe(text.pieces(length - before))
        seconds = time.process_time() - start
        forks.append(session.fork())
        converse(session.fork(), rounds=len(ASKED))
        cases.append(
            {
                "history_tokens": int(session.state.tokens),
                "observed_tokens_per_s": round((int(session.state.tokens) - before) / seconds),
                "peak_mib": round(peak_mib(), 1),
            }
        )
        print(f"{cases[-1]}", file=sys.stderr)
    times: list[list[float]] = [[] for _ in forks]
    for turn in range(rounds):
        for fork, taken in zip(forks, times, strict=True):
            taken.append(timed_turn(fork, turn))
    for case, taken in zip(cases, times, strict=True):
        case["turn_ms"] = round(1000 * statistics.median(taken), 2)
    turn_ms = [case["turn_ms"] for case in cases]
    peaks = [case["peak_mib"] for case in cases]
    return {
        "cases": cases,
        "rounds": rounds,
        "turn_x": round(max(turn_ms) / turn_ms[0], 4),
        "memory_x": round(max(peaks) / peaks[0], 4),
    }


class Text:
    """An endless text about the toy world's people, in pieces of any length."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._rng = random.Random("turns")

    def pieces(self, tokens: int) -> Iterator[str]:
        """About ``tokens`` tokens of it."""
        while tokens > 0:
            dialogue = sample_dialogue(self._rng, facts=3, small_talk=3)
            text = " ".join(message.text for message in dialogue.messages) + "\n"
            tokens -= len(self._tokenizer(text).input_ids)
            cut = self._rng.randrange(len(text))
            yield from (text[:cut], text[cut:])


def converse(session: deltamem.Session, rounds: int) -> None:
    for turn in range(rounds):
        timed_turn(session, turn)


def timed_turn(session: deltamem.Session, turn: int) -> float:
    start = time.process_time()
    session.reply(ASKED[turn % len(ASKED)], **ANSWER)
    return time.process_time() - start


def peak_mib() -> float:
    """The most memory the process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def compare_reuse(model: Any, tokenizer: Any, dialogues: int) -> dict[str, Any]:
    """Recall, agreement and CPU time of dialogues with and without reuse of keys and values."""
    rng = random.Random("reuse")
    sampled = [sample_dialogue(rng, facts=4, corrections=1, small_talk=3, split="test") for _ in range(dialogues)]
    answers: dict[bool, list[str]] = {}
    seconds, prompt, reused = {}, 0, 0
    for reuse in (True, False):
        answers[reuse] = []
        start = time.process_time()
        for dialogue in sampled:
            session = deltamem.Session(model, tokenizer, window=None, reuse=reuse)
            for message in dialogue.messages[::2]:
                session.reply(message.text, do_sample=False, max_new_tokens=24)
            for question in dialogue.questions:
                answers[reuse].append(session.reply(question.ask, do_sample=False, max_new_tokens=24))
                if reuse and session.last_turn:
                    prompt += session.last_turn.prompt_tokens
                    reused += session.last_turn.reused_tokens
        seconds[reuse] = time.process_time() - start
    right = [question.answer for dialogue in sampled for question in dialogue.questions]
    return {
        "questions": len(right),
        "recall_kept": share(answers[True], right),
        "recall_read_again": share(answers[False], right),
        "same_answers": share(answers[True], answers[False]),
        "reused_share_of_prompts": round(reused / prompt, 3),
        "seconds_kept": round(seconds[True], 1),
        "seconds_read_again": round(seconds[False], 1),
    }


def share(found: list[str], wanted: list[str]) -> float:
    return round(sum(a == b for a, b in zip(found, wanted, strict=True)) / len(wanted), 3)


def show(report: dict[str, Any]) -> None:
    print(f"{'history':>12}{'a turn':>14}{'peak memory':>16}{'observed':>14}")
    for case in report["cases"]:
        print(
            f"{case['history_tokens']:12,}{case['turn_ms']:11.2f} ms{case['peak_mib']:12.1f} MiB"
            f"{case['observed_tokens_per_s']:9,} tok/s"
        )
    print(f"longest by shortest: time {report['turn_x']}x, memory {report['memory_x']}x")
    for name, value in report.get("reuse", {}).items():
        print(f"{name.replace('_', ' ')}: {value}")
    print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))


if __name__ == "__main__":
    sys.exit(main())
