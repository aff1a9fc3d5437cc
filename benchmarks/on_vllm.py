"""What a memory costs on vLLM: the same backbone with and without, for some sessions at once; and on the own engine.

    python benchmarks/on_vllm.py --json benchmarks/results/on_vllm.json

Run it where vLLM is installed (docs/vllm.md). (A script called vllm.py would hide the package.) Stock vLLM, the
backbone that remembers on vLLM, and deltamem's own engine each have a process, and take turns, so that a machine that
slows down does so for all. Every session is one request: it reads a memory, writes all of its prompt and of its answer
to it, and has it taken at the end. `turns_tokens_s` is of the same prompts and answers in two requests, as
`deltamem serve` makes a turn of them, and the own engine does: one reads, and then one writes. Times are CPU time of
one thread, which other work on the machine lengthens less than wall time, and the figures are the medians of the
rounds; without torch.compile.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from common import command_line, machine, tell

KINDS = ("stock", "delta", "own")


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--model", default="smollm2", help="as deltamem serve takes it")
    parser.add_argument("--adapter", default="multi")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--prompt", type=int, default=64, help="tokens")
    parser.add_argument("--answer", type=int, default=32, help="tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beside", default="", help="what else the machine does, for the file")
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options)
    report = {"machine": machine() | {"beside": options.beside}} | {
        name: getattr(options, name) for name in ("model", "adapter", "prompt", "answer")
    }
    report |= {"rounds": options.rounds, "sessions": measure(options)}
    return tell(report, options)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """For each number of sessions the figures of all, and shares: of stock, and of the memory on vLLM."""
    figures: dict[str, Any] = {}
    with processes(KINDS, min(options.sessions)) as ask:
        for sessions in options.sessions:
            rounds: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
            for number in range(options.rounds):
                for kind in KINDS if number % 2 == 0 else reversed(KINDS):
                    rounds[kind].append(ask(kind, sessions))
            medians = {kind: median_of(found) for kind, found in rounds.items()}
            stock, delta, own = (medians[kind] for kind in KINDS)
            shares = {
                f"{name}_share_of_stock": round(delta[name] / stock[name], 3) for name in ("tokens_s", "decoded_s")
            }
            shares["first_token_x"] = round(delta["first_token_s"] / stock["first_token_s"], 3)
            shares["own_turns_share_of_delta"] = round(own["turns_tokens_s"] / delta["turns_tokens_s"], 3)
            figures[str(sessions)] = medians | shares
    return figures


@contextmanager
def processes(kinds: Sequence[str], first: int, *more: str) -> Iterator[Callable[[str, int], dict[str, float]]]:
    """Runs this command once more for each kind, with ``--serve``; gives what asks one of them for a round.

    Args:
        kinds: what ``--serve`` takes.
        first: of a round that each is asked for at once, which compiles kernels.
        more: further arguments of theirs.
    """
    command = [sys.executable, *sys.argv, *more]
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
    most, context = max(options.sessions), options.prompt + options.answer + 1
    if options.serve == "own":
        engine = open_own(options, most=most)
        measure_round = functools.partial(own_round, engine)
    else:
        llm = open_llm(options, remembers=options.serve == "delta", context=context, most=most)
        measure_round = functools.partial(one_round, llm)
    for line in sys.stdin:
        print(json.dumps(measure_round(int(line), options)), flush=True)
    return 0


def open_own(options: argparse.Namespace, *, most: int) -> Any:
    """Starts deltamem's own engine in this process."""
    import torch

    from deltamem.models.loading import load_model
    from deltamem.serve.engine.engine import Engine
    from deltamem.serve.settings import EngineLimits

    torch.set_num_threads(1)
    return Engine(*load_model(options.model, options.adapter), EngineLimits(max_batch=most, queue=most))


def open_llm(options: argparse.Namespace, *, remembers: bool, context: int, most: int, **more: Any) -> Any:
    """Starts vLLM in this process, with a backbone that remembers or the same one without."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import LLM

    from deltamem.vllm.flags import engine_arguments

    arguments = engine_arguments(options.model, options.adapter)
    if not remembers:
        arguments = {name: arguments[name] for name in ("model", "enable_prefix_caching")}
    given = {
        "dtype": "float32",
        "skip_tokenizer_init": True,
        "enforce_eager": True,
        "max_model_len": context,
        "max_num_seqs": most,
        "max_num_batched_tokens": max(512, most),
    }
    return LLM(**{**arguments, **given, **more})


def prompt_of(number: int, options: argparse.Namespace) -> list[int]:
    """The tokens that a session says."""
    return [3 + (7 * number + 5 * place) % 1000 for place in range(options.prompt)]


def one_round(llm: Any, sessions: int, options: argparse.Namespace) -> dict[str, float]:
    """Tokens a second of CPU time, all and decoded ones, and when every session had its first token."""
    delta, request = options.serve == "delta", Requests(llm, options)
    fed = options.prompt + options.answer - 1
    begun = time.process_time()
    for number in range(sessions):
        request.answer(number, write=True)
    started: set[str] = set()
    first = begun
    while request.engine.has_unfinished_requests():
        for output in request.engine.step():
            started.add(output.request_id)
            if output.finished and delta:
                llm.collective_rpc("deltamem_take", args=(output.request_id, fed))
        if len(started) == sessions and first == begun:
            first = time.process_time()
    ended = time.process_time()
    figures = {
        "tokens_s": sessions * (fed + 1) / (ended - begun),
        "decoded_s": sessions * (options.answer - 1) / (ended - first),
        "first_token_s": first - begun,
    }
    return figures | ({"turns_tokens_s": turns(llm, sessions, request)} if delta else {})


def turns(llm: Any, sessions: int, request: "Requests") -> float:
    """Tokens a second of turns: a request that reads, and one that writes prompt and answer."""
    begun = time.process_time()
    for number in range(sessions):
        request.answer(number, write=False)
    tokens = 0
    while request.engine.has_unfinished_requests():
        for output in request.engine.step():
            kind, number = output.request_id.split()
            if output.finished and kind == "session":
                said = prompt_of(int(number), request.options) + list(output.outputs[0].token_ids)
                tokens += len(said)
                request.write(int(number), said)
            elif output.finished:
                fed = len(output.prompt_token_ids)
                llm.collective_rpc("deltamem_take", args=(output.request_id, fed))
    return tokens / (time.process_time() - begun)


class Requests:
    """What is asked of vLLM.

    Args:
        llm: vLLM's.
        options: of the command.
    """

    def __init__(self, llm: Any, options: argparse.Namespace) -> None:
        self.engine = llm.llm_engine
        self.options = options

    def answer(self, number: int, *, write: bool) -> None:
        """A session's prompt and answer; where the backbone remembers, they write and are given back, or only read."""
        name = f"session {number}"
        memory = {"write": True, "ticket": name} if write else {}
        self._send(name, prompt_of(number, self.options), self.options.answer, memory)

    def write(self, number: int, tokens: list[int]) -> None:
        """Tokens that write."""
        name = f"write {number}"
        self._send(name, tokens, 1, {"write": bytes([1]) * len(tokens), "ticket": name})

    def _send(self, name: str, prompt: list[int], tokens: int, memory: dict[str, Any]) -> None:
        from vllm import SamplingParams

        from deltamem.vllm.request import MemoryRequest

        delta = self.options.serve == "delta"
        params = SamplingParams(
            temperature=0,
            max_tokens=tokens,
            ignore_eos=True,
            detokenize=False,
            extra_args={"kv_transfer_params": MemoryRequest(**memory).params()} if delta else None,
        )
        self.engine.add_request(name, {"prompt_token_ids": prompt}, params)


def own_round(engine: Any, sessions: int, options: argparse.Namespace) -> dict[str, float]:
    """The same of turns on the own engine."""
    import torch

    from deltamem.serve.engine.jobs import Done, Failed, Piece, Written
    from deltamem.serve.engine.sampling import Sampling

    events: SimpleQueue[tuple[int, Any]] = SimpleQueue()
    how = Sampling(max_tokens=options.answer, temperature=0, ignore_end=True)
    said = {number: prompt_of(number, options) for number in range(sessions)}

    def deliver(number: int) -> Callable[[Any], None]:
        return lambda event: events.put((number, event))

    begun = first = time.process_time()
    for number, prompt in said.items():
        engine.generate(list(prompt), how, deliver(number))
    started: set[int] = set()
    written = 0
    while written < sessions:
        number, event = events.get()
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Piece):
            said[number].append(event.chosen.token)
            started.add(number)
            if len(started) == sessions and first == begun:
                first = time.process_time()
        elif isinstance(event, Done):
            ids = torch.tensor([said[number]])
            engine.write(ids, torch.zeros_like(ids), torch.ones_like(ids, dtype=torch.bool), deliver(number))
        else:
            assert isinstance(event, Written)
            written += 1
    spent = time.process_time() - begun
    return {"turns_tokens_s": sum(map(len, said.values())) / spent, "first_token_s": first - begun}


if __name__ == "__main__":
    sys.exit(main())
