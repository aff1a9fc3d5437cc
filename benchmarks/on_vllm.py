"""What a memory costs on vLLM: the same backbone with and without, for some sessions at once.

    python benchmarks/on_vllm.py --json benchmarks/results/on_vllm.json

Run it where vLLM is installed (docs/vllm.md). (A script called vllm.py would hide the package.) Stock vLLM and the
backbone that remembers each have a process, and take turns, so that a machine that slows down does so for both. Every
session is one request: it reads a memory, writes all of its prompt and of its answer to it, and has it taken at the
end, which is the most a turn can cost. Times are CPU time of one thread, which other work on the machine lengthens less
than wall time, and the figures are the medians of the rounds; both run without torch.compile.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from common import command_line, machine, tell

KINDS = ("stock", "delta")


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--model", default="smollm2", help="as deltamem serve takes it")
    parser.add_argument("--adapter", default="multi")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--prompt", type=int, default=64, help="tokens")
    parser.add_argument("--answer", type=int, default=32, help="tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options)
    report = {"machine": machine()} | {
        name: getattr(options, name) for name in ("model", "adapter", "prompt", "answer")
    }
    report |= {"rounds": options.rounds, "sessions": measure(options)}
    return tell(report, options)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """For each number of sessions the figures of both, and the share of stock that is left."""
    figures: dict[str, Any] = {}
    with processes(KINDS, max(options.sessions)) as ask:
        for sessions in options.sessions:
            rounds: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
            for number in range(options.rounds):
                for kind in KINDS if number % 2 == 0 else reversed(KINDS):
                    rounds[kind].append(ask(kind, sessions))
            medians = {kind: median_of(found) for kind, found in rounds.items()}
            stock, delta = (medians[kind] for kind in KINDS)
            shares = {
                f"{name}_share_of_stock": round(delta[name] / stock[name], 3) for name in ("tokens_s", "decoded_s")
            }
            shares["first_token_x"] = round(delta["first_token_s"] / stock["first_token_s"], 3)
            figures[str(sessions)] = medians | shares
    return figures


@contextmanager
def processes(kinds: Sequence[str], first: int) -> Iterator[Callable[[str, int], dict[str, float]]]:
    """Runs this command once more for each kind, with ``--serve``; gives what asks one of them for a round.

    Args:
        kinds: what ``--serve`` takes.
        first: of a round that each is asked for at once, which compiles kernels.
    """
    command = [sys.executable, *sys.argv]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    served = {kind: subprocess.Popen([*command, "--serve", kind], **pipes) for kind in kinds}
    try:
        for process in served.values():
            _ask(process, first)
        yield lambda kind, number: _ask(served[kind], number)
    finally:
        for process in served.values():
            process.stdin.close()
            process.wait(60)


def _ask(process: "subprocess.Popen[str]", number: int) -> dict[str, float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{number}\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith("{"):
            found: dict[str, float] = json.loads(line)
            return found
    raise RuntimeError("The engine ended; what it said is above.")


def median_of(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of every figure."""
    return {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}


def serve(options: argparse.Namespace) -> int:
    """Measures a round for each number of sessions that is read."""
    most = max(options.sessions)
    llm = open_llm(options, remembers=options.serve == "delta", context=options.prompt + options.answer + 1, most=most)
    for line in sys.stdin:
        print(json.dumps(one_round(llm, int(line), options)), flush=True)
    return 0


def open_llm(options: argparse.Namespace, *, remembers: bool, context: int, most: int, **more: Any) -> Any:
    """Starts vLLM in this process, with a backbone that remembers or the same one without."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import LLM

    from deltamem.vllm.flags import engine_arguments

    arguments = engine_arguments(options.model, options.adapter)
    if not remembers:
        arguments = {name: arguments[name] for name in ("model", "dtype", "enable_prefix_caching")}
    given = {
        "skip_tokenizer_init": True,
        "enforce_eager": True,
        "max_model_len": context,
        "max_num_seqs": most,
        "max_num_batched_tokens": max(512, most),
    }
    return LLM(**{**arguments, **given, **more})


def one_round(llm: Any, sessions: int, options: argparse.Namespace) -> dict[str, float]:
    """Tokens a second of CPU time, all and decoded ones, and when every session had its first token."""
    from vllm import SamplingParams

    from deltamem.vllm.request import MemoryRequest

    delta = options.serve == "delta"
    engine = llm.llm_engine
    begun = time.process_time()
    for number in range(sessions):
        wanted = MemoryRequest(write=True, ticket=f"session {number}").params() if delta else {}
        params = SamplingParams(
            temperature=0,
            max_tokens=options.answer,
            ignore_eos=True,
            detokenize=False,
            extra_args={"kv_transfer_params": wanted} if delta else None,
        )
        prompt = [3 + (7 * number + 5 * place) % 1000 for place in range(options.prompt)]
        engine.add_request(f"session {number}", {"prompt_token_ids": prompt}, params)
    started: set[str] = set()
    first = begun
    while engine.has_unfinished_requests():
        for output in engine.step():
            started.add(output.request_id)
            if output.finished and delta:
                llm.collective_rpc("deltamem_take", args=(output.request_id, options.prompt + options.answer - 1))
        if len(started) == sessions and first == begun:
            first = time.process_time()
    ended = time.process_time()
    return {
        "tokens_s": sessions * (options.prompt + options.answer) / (ended - begun),
        "decoded_s": sessions * (options.answer - 1) / (ended - first),
        "first_token_s": first - begun,
    }


if __name__ == "__main__":
    sys.exit(main())
