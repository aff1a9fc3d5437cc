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
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from deltamem.formats.hub import add_adapter, read_adapter_from
from deltamem.formats.state import StateCodec
from deltamem.models.catalog import find_source
from deltamem.models.loading import find_adapter, load_config, load_tokenizer
from deltamem.observe import CHUNK
from deltamem.serve.engine.constraint import definition_without_prefix
from deltamem.serve.engine.interface import AnyEngine, MakeEngine
from deltamem.serve.engine.jobs import Done, EngineError, Event, Failed, Job, Load, Piece, Row, Writing, Written
from deltamem.serve.engine.sampling import MAX_LOGPROBS, Chosen
from deltamem.serve.settings import EngineLimits
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


class VllmEngine(AnyEngine):
    """An engine over vLLM; :func:`vllm_engine` binds what only it needs.

    Args:
        model: a :class:`Hollow` one's, as its tokenizer is.
        tokenizer: vLLM is given it too, to follow forms with.
        limits: `max_batch` and `prefill_tokens` become vLLM's own limits.
        backbone: what vLLM runs, as :func:`deltamem.vllm.flags.engine_arguments` takes it.
        adapter: the same.
        options: further arguments of vLLM's `EngineArgs`.
        told: `watch` and `delivered` of :class:`AnyEngine`, called after every step. The first is told of the tokens of
            answers alone, since vLLM mixes them with all else in a step.

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
        backbone: str | Path,
        adapter: str | Path,
        options: dict[str, Any] | None = None,
        **told: Callable[..., None],
    ) -> None:
        super().__init__(model, tokenizer, limits, **told)
        self._codec = StateCodec(model, rows=1)
        self._forms = tempfile.TemporaryDirectory(prefix="deltamem-")
        _save_for_forms(tokenizer, min(self._ends), self._forms.name)
        model.config.save_pretrained(self._forms.name)  # vLLM looks for one beside a tokenizer
        options = {"tokenizer": self._forms.name, **(options or {})}
        try:
            self._engine = _start(backbone, adapter, self.context, self.limits, options)
        except BaseException:
            self._forms.cleanup()
            raise
        self._names = (f"job-{number}" for number in itertools.count())
        self._jobs: dict[str, Job] = {}
        self._thread.start()

    def load(self) -> Load:
        """Prompts that are being read count among the answers: vLLM does not say which they are."""
        jobs = list(self._jobs.values())
        answers = sum(isinstance(job, Row) for job in jobs)
        return Load(len(self._waiting), 0, answers, len(jobs) - answers)

    def close(self, timeout: float | None = None) -> None:
        """Ends all requests, at the latest ``timeout`` seconds from now, and shuts vLLM down."""
        super().close(timeout)
        self._engine.engine_core.shutdown()
        self._forms.cleanup()

    def _line(self) -> tuple[int, int]:
        return len(self._waiting) + len(self._jobs) - self.limits.max_batch, 0

    def _busy(self) -> bool:
        return bool(self._jobs)

    def _all_jobs(self) -> list[Job]:
        return [*self._waiting, *self._jobs.values()]

    def _step(self) -> int:
        with self._changed:
            begun = {next(self._names): self._waiting.popleft() for _ in range(len(self._waiting))}
            self._jobs |= begun
        for name, job in begun.items():
            self._begin(name, job)
        self._drop()
        return sum(self._take(output) for output in self._engine.step())

    def _begin(self, name: str, job: Job) -> None:
        """Hands a job, or the next chunk of one, to vLLM."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        # An empty memory need not be sent.
        state = None if job.state is self._empty else self._codec.pack(job.state)
        if isinstance(job, Writing):
            tokens, flags = self._chunk(job)
            wanted = MemoryRequest(state, bytes(flags), name)
            how: dict[str, Any] = {"max_tokens": 1, "temperature": 0.0}
        else:
            tokens, wanted, sampling = list(job.tokens), MemoryRequest(state), job.sampling
            how = {field: getattr(sampling, field) for field in _PASSED_ON} | {
                "logprobs": sampling.logprobs,
                "stop_token_ids": [] if sampling.ignore_end else sorted(self._ends),
                "logit_bias": dict(sampling.logit_bias) or None,
            }
            if job.constraint is not None:
                how["structured_outputs"] = StructuredOutputsParams(grammar=job.constraint.form)
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

    def _chunk(self, job: Writing) -> tuple[list[int], list[int]]:
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
        if isinstance(job, Writing):
            if output.finished:
                self._take_written(name, job)
            return 0
        return self._take_tokens(name, job, made, finished=output.finished)

    def _take_tokens(self, name: str, job: Row, made: Any, *, finished: bool) -> int:
        """Delivers pieces of an answer; stop texts are looked for here, and end the request by an abort."""
        tokens = list(made.token_ids)
        ended = finished and made.finish_reason == "stop"
        for place, token in enumerate(tokens):
            job.tokens.append(token)
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
                self._end(name, Done(rest, "stop", job.prompt, job.made))
                return len(tokens)
        if finished:
            rest = job.text.finish()
            reason = "stop" if ended or job.text.stopped else "length"
            self._end(name, Done(rest, reason, job.prompt, job.made))
        return len(tokens)

    def _take_written(self, name: str, job: Writing) -> None:
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
            following = next(self._names)
            self._jobs[following] = job
            self._begin(following, job)
        else:
            self._end(name, Written(job.state))

    def _end(self, name: str, event: Event) -> None:
        self._deliver_last(self._jobs.pop(name), event)

    def _fail(self, error: Exception) -> None:
        """Ends all jobs after an error of vLLM's, and stops if it cannot go on."""
        _log.error("vLLM failed under %d jobs", len(self._jobs), exc_info=error)
        failure = EngineError(f"vLLM failed ({type(error).__name__}); nothing was written.")
        gone, self._jobs = self._jobs, {}
        for job in gone.values():
            job.ticket.deliver(Failed(failure))
        try:
            self._engine.abort_request(list(gone))
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


def _save_for_forms(tokenizer: Any, end: int, folder: str) -> None:
    """Saves the tokenizer by which vLLM follows forms, as our own engine does; it reads and writes no text with it."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer.from_str(definition_without_prefix(tokenizer))
    mark = tokenizer.convert_ids_to_tokens(end)
    PreTrainedTokenizerFast(tokenizer_object=plain, eos_token=mark).save_pretrained(folder)


def _with_logprobs(token: int, found: dict[int, Any], count: int) -> Chosen:
    """A token with its log-probability and the likeliest ``count`` others, as vLLM reports them."""
    likeliest = sorted((entry.rank, other, entry.logprob) for other, entry in found.items() if entry.rank is not None)
    alternatives = tuple((other, float(logprob)) for _, other, logprob in likeliest[:count])
    return Chosen(token, float(found[token].logprob), alternatives)
