"""The server's engine over vLLM, which runs in this process; one thread owns it.

An answer is a request that reads a memory and does not write it. What a turn writes is a request of its own, whose
memory is taken when it has finished. So an answer that fails, is aborted or preempted leaves the session as it was.
"""

import contextlib
import functools
import itertools
import logging
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deltamem.attach import attached
from deltamem.formats.hub import add_adapter, read_adapter_from
from deltamem.formats.state import StateCodec
from deltamem.models.catalog import find_source
from deltamem.models.loading import find_adapter, load_config, load_tokenizer
from deltamem.observe import CHUNK, positions
from deltamem.serve.engine.constraint import Constraint, definition_without_prefix
from deltamem.serve.engine.interface import MakeEngine, check_prompt, end_tokens
from deltamem.serve.engine.jobs import (
    ClosedError,
    Deliver,
    Done,
    EngineError,
    Event,
    Failed,
    Load,
    Piece,
    QueueFullError,
    Ticket,
    Written,
)
from deltamem.serve.engine.sampling import MAX_LOGPROBS, Chosen, Sampling
from deltamem.serve.engine.text import TextStream
from deltamem.serve.settings import EngineLimits
from deltamem.state import MemoryState
from deltamem.vllm.check import UnfitError, check_front
from deltamem.vllm.flags import engine_arguments
from deltamem.vllm.request import MemoryRequest, unstacked

_log = logging.getLogger(__name__)
_PASSED_ON = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "max_tokens",
)


class Hollow(NamedTuple):
    """What the server needs of a model that vLLM runs.

    Attributes:
        model: its shape, without weights, with a real adapter on it.
        tokenizer: its tokenizer.
    """

    model: Any
    tokenizer: Any


def open_hollow(model: str | Path, adapter: str | Path) -> Hollow:
    """Reads all of a model but its weights, which vLLM reads itself.

    Args:
        model: as :func:`deltamem.vllm.flags.engine_arguments` takes it.
        adapter: the same.

    Raises:
        OSError: the model is not there.
        AdapterFileError: the adapter is not there, or was made for another backbone.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    with torch.device("meta"):
        shape: Any = AutoModelForCausalLM.from_config(load_config(model), attn_implementation="sdpa").eval()
    with contextlib.suppress(OSError):  # many models have none
        shape.generation_config = GenerationConfig.from_pretrained(find_source(model).place)
    file = read_adapter_from(find_adapter(model, adapter))
    attachment = add_adapter(shape, file)
    with torch.no_grad():
        for layer, memory in zip(attachment.layer_numbers(), attachment.memories(), strict=True):
            memory.to_empty(device="cpu")
            for part, tensor in memory.named_parts().items():
                tensor.copy_(file.tensors[f"layers.{layer}.{part}"])
    return Hollow(shape, load_tokenizer(model))


@dataclass(eq=False)
class _Answer:
    """A generation under way."""

    ticket: Ticket
    state: MemoryState | None
    prompt: list[int]
    sampling: Sampling
    text: TextStream
    constraint: Constraint | None = None
    made: int = 0


@dataclass(eq=False)
class _Writing:
    """Tokens on their way into a memory, chunk by chunk; ``done`` of them are in it."""

    ticket: Ticket
    state: MemoryState
    ids: Tensor
    write: Tensor
    done: int = 0


class VllmEngine:
    """:class:`deltamem.serve.engine.interface.AnyEngine` over vLLM; :func:`vllm_engine` binds what only it needs.

    Args:
        model: a :class:`Hollow` one's, as its tokenizer is.
        tokenizer: vLLM is given it too, to follow forms with.
        limits: `max_batch` and `prefill_tokens` become vLLM's own limits.
        watch: told of the tokens of answers alone, since vLLM mixes them with all else in a step.
        delivered: called after every step.
        backbone: what vLLM runs, as :func:`deltamem.vllm.flags.engine_arguments` takes it.
        adapter: the same.
        options: further arguments of vLLM's `EngineArgs`.

    Raises:
        UnfitError: this vLLM, or this backbone, cannot remember.
    """

    computes = False

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        limits: EngineLimits | None = None,
        *,
        watch: Callable[[int, float], None] | None = None,
        delivered: Callable[[], None] | None = None,
        backbone: str | Path,
        adapter: str | Path,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.limits = limits or EngineLimits()
        most = positions(model) or 2**31
        self.context = min(self.limits.context or most, most)
        self._attachment = attached(model)
        self._codec = StateCodec(model, rows=1)
        self._ends = sorted(end_tokens(model, tokenizer))
        self._watch = watch
        self._delivered = delivered or (lambda: None)
        self._forms = tempfile.TemporaryDirectory(prefix="deltamem-")
        _save_for_forms(tokenizer, self._ends, self._forms.name)
        model.config.save_pretrained(self._forms.name)  # vLLM looks for one beside a tokenizer
        options = {"tokenizer": self._forms.name, **(options or {})}
        try:
            self._engine = _start(backbone, adapter, self.context, self.limits, options)
        except BaseException:
            self._forms.cleanup()
            raise
        self._names = (f"job-{number}" for number in itertools.count())
        self._waiting: deque[_Answer | _Writing] = deque()
        self._jobs: dict[str, _Answer | _Writing] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._seconds_per_job = 0.5
        self._thread = threading.Thread(target=self._run, name="deltamem-vllm", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """False once it closes, or after a failure from which vLLM did not come back."""
        return self._thread.is_alive() and not self._closing

    def new_state(self) -> MemoryState:
        """Zeros on the CPU, where memories go in and out of requests."""
        return self._attachment.new_state(1)

    def load(self) -> Load:
        """Prompts that are being read count among the answers: vLLM does not say which they are."""
        jobs = list(self._jobs.values())
        answers = sum(isinstance(job, _Answer) for job in jobs)
        return Load(len(self._waiting), 0, answers, len(jobs) - answers)

    def generate(
        self,
        prompt: list[int],
        sampling: Sampling,
        deliver: Deliver,
        *,
        state: MemoryState | None = None,
        deadline: float | None = None,
        continues: bool = False,
        constraint: Constraint | None = None,
    ) -> Ticket:
        """Sends a request that reads its memory; stop texts are looked for here, and end it by an abort."""
        check_prompt(prompt, self.context)
        ticket = Ticket(deliver, deadline)
        text = TextStream(self.tokenizer, sampling.stop, prompt if continues else ())
        self._submit(_Answer(ticket, state, list(prompt), sampling, text, constraint))
        return ticket

    def write(
        self,
        ids: Tensor,
        segments: Tensor,
        write: Tensor,
        deliver: Deliver,
        *,
        state: MemoryState | None = None,
        deadline: float | None = None,
        admitted: bool = False,
    ) -> Ticket:
        """Sends a request for each chunk, with the memory of the one before; the token it samples is not used."""
        ticket = Ticket(deliver, deadline)
        state = state if state is not None else self.new_state()
        self._submit(_Writing(ticket, state, ids, write), admitted=admitted)
        return ticket

    def stop(self) -> None:
        """Has the thread abort every request before its next step."""
        self._take_no_more()
        for job in [*self._waiting, *self._jobs.values()]:
            job.ticket.cancel(ClosedError())

    def close(self, timeout: float | None = None) -> None:
        """Ends all requests, at the latest ``timeout`` seconds from now, and shuts vLLM down."""
        self._take_no_more()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self.stop()
            self._thread.join()
        self._engine.engine_core.shutdown()
        self._forms.cleanup()

    def _take_no_more(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()

    def _submit(self, job: _Answer | _Writing, *, admitted: bool = False) -> None:
        with self._changed:
            if not self._thread.is_alive() or (self._closing and not admitted):
                raise ClosedError
            ahead = len(self._waiting) + len(self._jobs)
            if not admitted and ahead >= self.limits.queue + self.limits.max_batch:
                wait = (ahead - self.limits.max_batch) * self._seconds_per_job / self.limits.max_batch
                raise QueueFullError(ahead - self.limits.max_batch, max(1, min(60, round(wait))))
            self._waiting.append(job)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._jobs):
                    if self._closing:
                        return
                    self._changed.wait()
                begun = [self._waiting.popleft() for _ in range(len(self._waiting))]
            started = time.monotonic()
            try:
                for job in begun:
                    self._begin(job)
                self._drop()
                made = sum(self._take(output) for output in self._engine.step())
            except Exception as error:
                self._fail(begun, error)
            else:
                if self._watch is not None:
                    self._watch(made, time.monotonic() - started)
            self._delivered()

    def _begin(self, job: _Answer | _Writing) -> None:
        """Hands a job, or the next chunk of one, to vLLM."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        name = next(self._names)
        self._jobs[name] = job
        state = None if job.state is None else self._codec.pack(job.state)
        if isinstance(job, _Writing):
            tokens, flags = self._chunk(job)
            wanted = MemoryRequest(state, bytes(flags), name)
            how: dict[str, Any] = {"max_tokens": 1, "temperature": 0.0}
        else:
            tokens, wanted, sampling = job.prompt, MemoryRequest(state), job.sampling
            how = {field: getattr(sampling, field) for field in _PASSED_ON} | {
                "logprobs": sampling.logprobs,
                "stop_token_ids": [] if sampling.ignore_end else self._ends,
                "logit_bias": dict(sampling.logit_bias) or None,
            }
            if job.constraint is not None:
                how["structured_outputs"] = StructuredOutputsParams(grammar=job.constraint.form.grammar)
        params = SamplingParams(
            **how,
            ignore_eos=True,  # the tokens that end an answer are named
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={"kv_transfer_params": wanted.params()},
        )
        try:
            self._engine.add_request(name, {"prompt_token_ids": tokens}, params)
        except ValueError as error:
            self._end(name, Failed(EngineError(f"vLLM refused the request: {error}")))

    def _chunk(self, job: _Writing) -> tuple[list[int], list[int]]:
        """The next tokens to write, and a flag for each; attention sees the chunk alone, as in :func:`observe`."""
        part = slice(job.done, job.done + min(CHUNK, self.context))
        return job.ids[0, part].tolist(), job.write[0, part].int().tolist()

    def _drop(self) -> None:
        """Ends the jobs that nobody waits for any more."""
        for name, job in list(self._jobs.items()):
            problem = job.ticket.problem()
            if problem is not None:
                self._engine.abort_request([name])
                self._end(name, Failed(problem))

    def _take(self, output: Any) -> int:
        """Delivers what a request has come to; gives the number of tokens of an answer."""
        name = str(output.request_id)
        job = self._jobs.get(name)
        if job is None:  # it was dropped while the step ran
            return 0
        made = output.outputs[0]
        if output.finished and made.finish_reason not in ("stop", "length"):
            self._end(name, Failed(EngineError(f"vLLM ended the request ({made.finish_reason}); nothing was written.")))
            return 0
        if isinstance(job, _Writing):
            if output.finished:
                self._take_written(name, job)
            return 0
        return self._take_tokens(name, job, made, finished=output.finished)

    def _take_tokens(self, name: str, job: _Answer, made: Any, *, finished: bool) -> int:
        tokens = list(made.token_ids)
        ended = finished and made.finish_reason == "stop"
        for place, token in enumerate(tokens):
            job.made += 1
            if ended and place == len(tokens) - 1:  # the token that ends it has no text
                break
            piece = job.text.push(token)
            chosen = Chosen(token)
            if job.sampling.logprobs is not None:
                chosen = _with_logprobs(token, made.logprobs[place], job.sampling.logprobs)
            job.ticket.deliver(Piece(piece, chosen, job.text.length))
            if job.constraint is not None:
                job.constraint.take(token)
            complete = job.constraint is not None and job.constraint.finished
            if job.text.stopped or complete:
                if not finished:
                    self._engine.abort_request([name])
                rest = "" if job.text.stopped else job.text.finish()
                self._end(name, Done(rest, "stop", len(job.prompt), job.made))
                return len(tokens)
        if finished:
            rest = job.text.finish()
            reason = "stop" if ended or job.text.stopped else "length"
            self._end(name, Done(rest, reason, len(job.prompt), job.made))
        return len(tokens)

    def _take_written(self, name: str, job: _Writing) -> None:
        tokens, flags = self._chunk(job)
        try:
            (value, *_) = self._engine.collective_rpc("deltamem_take", args=(name, len(tokens)))
        except RuntimeError as error:
            self._end(name, Failed(EngineError(f"The memory was lost: {error}")))
            return
        job.state = unstacked(value, job.state.tokens + sum(flags))
        job.done += len(tokens)
        if job.done < job.ids.shape[1]:
            del self._jobs[name]
            self._begin(job)
        else:
            self._end(name, Written(job.state))

    def _end(self, name: str, event: Event) -> None:
        job = self._jobs.pop(name)
        if isinstance(event, Done):
            spent = time.monotonic() - job.ticket.submitted
            self._seconds_per_job = 0.9 * self._seconds_per_job + 0.1 * spent
        job.ticket.deliver(event)

    def _fail(self, begun: list[_Answer | _Writing], error: Exception) -> None:
        """Ends all jobs after an error of vLLM's, and stops if it cannot go on."""
        _log.error("vLLM failed under %d jobs", len(self._jobs), exc_info=error)
        failure = EngineError(f"vLLM failed ({type(error).__name__}); nothing was written.")
        gone = dict.fromkeys([*self._jobs.values(), *begun])
        names = list(self._jobs)
        self._jobs.clear()
        for job in gone:
            job.ticket.deliver(Failed(failure))
        try:
            self._engine.abort_request(names)
        except Exception as worse:
            _log.critical("vLLM cannot go on", exc_info=worse)
            self._closing = True


def vllm_engine(backbone: str | Path, adapter: str | Path, **options: Any) -> MakeEngine:
    """What a server makes its engine with, for one backbone and adapter: :class:`VllmEngine` with these bound."""
    return functools.partial(VllmEngine, backbone=backbone, adapter=adapter, options=options)


def _start(
    backbone: str | Path, adapter: str | Path, context: int, limits: EngineLimits, options: dict[str, Any]
) -> Any:
    """The engine of vLLM, in this process."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    try:
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine
    except ImportError as missing:
        raise UnfitError(
            f"vLLM is not installed here ({missing}). It needs its own environment: docs/vllm.md says how to make one."
        ) from None
    check_front()
    arguments = engine_arguments(backbone, adapter)
    if context <= CHUNK:  # vLLM samples a token after whatever it reads, so a whole chunk takes one position more
        arguments["hf_overrides"] |= {"max_position_embeddings": context + 1}
    given = {
        "max_model_len": context + (context <= CHUNK),
        "max_num_seqs": limits.max_batch,
        "max_num_batched_tokens": limits.prefill_tokens + limits.max_batch,
        "enforce_eager": True,  # compiled, the first start takes minutes
        "disable_log_stats": True,
        "max_logprobs": MAX_LOGPROBS,
        "structured_outputs_config": {"backend": "guidance"},  # which follows our own forms as they are
    }
    return LLMEngine.from_engine_args(EngineArgs(**{**arguments, **given, **options}))


def _save_for_forms(tokenizer: Any, ends: Sequence[int], folder: str) -> None:
    """Saves the tokenizer by which vLLM follows forms, as our own engine does; it reads and writes no text with it."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer.from_str(definition_without_prefix(tokenizer))
    end = tokenizer.convert_ids_to_tokens(ends[0])
    PreTrainedTokenizerFast(tokenizer_object=plain, eos_token=end).save_pretrained(folder)


def _with_logprobs(token: int, found: dict[int, Any], count: int) -> Chosen:
    """A token with its log-probability and the likeliest ``count`` others, as vLLM reports them."""
    likeliest = sorted((entry.rank, other, entry.logprob) for other, entry in found.items() if entry.rank is not None)
    alternatives = tuple((other, float(logprob)) for _, other, logprob in likeliest[:count])
    return Chosen(token, float(found[token].logprob), alternatives)
