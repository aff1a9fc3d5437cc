"""What is checked before anything is loaded: that the plugin knows this vLLM, and that its set-up keeps memories right.

Everything that the plugin leans on is named here, so that a version that lacks it is refused instead of misread.
"""
# vLLM is not there where the product's own checks run
# mypy: disable-error-code="no-any-return"

import contextlib
import dis
import importlib
import inspect
import os
from typing import Any

TESTED = "0.32"
"""The minor version of vLLM that the tests run on."""

UNTESTED = "DELTAMEM_VLLM_UNTESTED"
"""The environment variable that lets another version start, if all that is leant on is there."""

CONNECTOR = "MemoryConnector"
MODULE = "deltamem.vllm.connector"
ADAPTER = "adapter"
"""The key of the adapter's folder or Hub id in `kv_connector_extra_config`."""

# Each is checked in one of two tables: where it is, and its methods, attributes and parameters.
_ATTENTION = (
    "qkv_proj o_proj attn q_size kv_size head_dim hidden_size total_num_heads total_num_kv_heads rotary_emb forward"
)
_LEANT_ON = {
    "vllm:ModelRegistry": "register_model",
    "vllm.config:VllmConfig": "cache_config compilation_config device_config kv_transfer_config lora_config "
    "parallel_config scheduler_config speculative_config",
    "vllm.config:CacheConfig": "enable_prefix_caching",
    "vllm.config:CompilationConfig": "static_forward_context",
    "vllm.config:DeviceConfig": "device_type",
    "vllm.config:KVTransferConfig": "kv_connector kv_connector_extra_config kv_connector_module_path "
    "kv_load_failure_policy kv_role",
    "vllm.config:ParallelConfig": "pipeline_parallel_size worker_extension_cls",
    "vllm.config:SchedulerConfig": "max_num_seqs",
    "vllm.config:SpeculativeConfig": "method num_speculative_tokens",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1": "bind_connector_metadata "
    "build_connector_meta get_block_ids_with_load_errors get_num_new_matched_tokens request_finished save_kv_layer "
    "start_load_kv update_state_after_alloc wait_for_layer_load wait_for_save",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorMetadata": "",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorRole": "SCHEDULER",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:SupportsHMA": "request_finished_all_groups",
    "vllm.forward_context:ForwardContext": "attn_metadata no_compile_layers",
    "vllm.forward_context:get_forward_context": "",
    "vllm.model_executor.layers.attention:Attention": "layer_name",
    "vllm.model_executor.layers.linear:QKVParallelLinear": "num_kv_head_replicas tp_rank",
    "vllm.model_executor.layers.linear:ReplicatedLinear": "bias input_size output_size params_dtype return_bias",
    "vllm.model_executor.models.llama:LlamaAttention": _ATTENTION,
    "vllm.model_executor.models.llama:LlamaDecoderLayer": "self_attn",
    "vllm.model_executor.models.llama:LlamaForCausalLM": "config load_weights model",
    "vllm.model_executor.models.mistral:MistralAttention": _ATTENTION,
    "vllm.model_executor.models.mistral:MistralForCausalLM": "load_weights model",
    "vllm.model_executor.models.qwen2:Qwen2Attention": _ATTENTION,
    "vllm.model_executor.models.qwen2:Qwen2DecoderLayer": "self_attn",
    "vllm.model_executor.models.qwen2:Qwen2ForCausalLM": "load_weights model",
    "vllm.model_executor.models.qwen3:Qwen3Attention": _ATTENTION,
    "vllm.model_executor.models.qwen3:Qwen3DecoderLayer": "self_attn",
    "vllm.model_executor.models.qwen3:Qwen3ForCausalLM": "load_weights model",
    "vllm.utils.torch_utils:direct_register_custom_op": "fake_impl mutates_args op_func op_name",
    "vllm.v1.attention.backends.cpu_attn:CPUAttentionMetadata": "block_table query_start_loc seq_lens",
    "vllm.v1.core.kv_cache_manager:KVCacheBlocks": "get_block_ids",
    "vllm.v1.kv_cache_interface:FullAttentionSpec": "sliding_window",
    "vllm.v1.kv_cache_interface:KVCacheConfig": "kv_cache_groups num_blocks",
    "vllm.v1.kv_cache_interface:KVCacheGroupSpec": "kv_cache_spec",
    "vllm.v1.request:Request": "kv_transfer_params num_prompt_tokens num_tokens request_id status",
    "vllm.v1.request:RequestStatus": "FINISHED_ABORTED",
    "vllm.v1.worker.worker_base:WorkerBase": "vllm_config",
}
"""What the backbones and the connector lean on."""

_LEANT_ON_IN_FRONT = {
    "vllm:EngineArgs": "disable_log_stats dtype enable_prefix_caching enforce_eager hf_overrides kv_transfer_config "
    "max_logprobs max_model_len max_num_batched_tokens max_num_seqs model structured_outputs_config tokenizer "
    "worker_extension_cls",
    "vllm:SamplingParams": "detokenize extra_args frequency_penalty ignore_eos logit_bias logprobs max_tokens min_p "
    "output_kind presence_penalty repetition_penalty seed stop_token_ids structured_outputs temperature top_k top_p",
    "vllm.engine.protocol:EngineClient": "collective_rpc",
    "vllm.logprobs:Logprob": "logprob rank",
    "vllm.outputs:CompletionOutput": "finish_reason logprobs token_ids",
    "vllm.outputs:RequestOutput": "finished outputs request_id",
    "vllm.plugins.endpoint_plugins.interface:EndpointPlugin": "attach_router init_state name required_tasks",
    "vllm.sampling_params:RequestOutputKind": "DELTA",
    "vllm.sampling_params:StructuredOutputsParams": "grammar",
    "vllm.v1.engine:FinishReason": "LENGTH STOP",
    "vllm.v1.engine.llm_engine:LLMEngine": "abort_request add_request collective_rpc engine_core from_engine_args step",
}
"""What the server's engine and the routes lean on, in the process that takes requests."""


class UnfitError(ValueError):
    """vLLM is of a version, or set up in a way, in which memories would be wrong."""


def adapter_of(vllm_config: Any) -> str:
    """The adapter that vLLM was started with.

    Raises:
        UnfitError: it was started without the connector or without an adapter.
    """
    transfer = vllm_config.kv_transfer_config
    if transfer is None or transfer.kv_connector != CONNECTOR:
        raise UnfitError(
            f"A backbone that remembers needs the connector {CONNECTOR} of {MODULE}: see --kv-transfer-config in "
            "docs/vllm.md, or start it with 'deltamem serve --engine vllm'."
        )
    adapter = transfer.kv_connector_extra_config.get(ADAPTER)
    if not isinstance(adapter, str) or not adapter:
        raise UnfitError(f"kv_connector_extra_config lacks {ADAPTER!r}: the folder or Hub id of an adapter.")
    return adapter


def check_version() -> None:
    """Refuses a vLLM that lacks what the backbones and the connector lean on.

    Raises:
        UnfitError: it does, or is of another version than the tested one.
    """
    import vllm

    version = str(vllm.__version__)
    if not version.startswith(f"{TESTED}.") and not os.environ.get(UNTESTED):
        raise UnfitError(
            f"This is vLLM {version}; δ-mem is tested with {TESTED}. Install that, or set {UNTESTED}=1 to try this one."
        )
    _check(_LEANT_ON)
    from deltamem.vllm.connector import MemoryConnector

    if changed := [name for base in MemoryConnector.__bases__ for name in _called_otherwise(MemoryConnector, base)]:
        raise UnfitError(
            f"vLLM {version} has other parameters for {', '.join(changed)}; δ-mem is tested with {TESTED}."
        )


def check_front() -> None:
    """The same of what the server's engine and the routes lean on, before an engine is started.

    Raises:
        UnfitError: vLLM lacks some of it.
    """
    _check(_LEANT_ON_IN_FRONT)


def _check(leant_on: dict[str, str]) -> None:
    import vllm

    lacking = [lack for place, names in leant_on.items() for lack in _lacks(place, names.split())]
    if lacking:
        raise UnfitError(
            f"vLLM {vllm.__version__} lacks {', '.join(lacking)}, which δ-mem needs; it is tested with {TESTED}."
        )


def _lacks(place: str, names: list[str]) -> list[str]:
    """What is not at a place in vLLM, such as ``module:Class``: all of it, or some of its names."""
    module, _, owner = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), owner, None)
    except ImportError:
        found = None
    if found is None:
        return [place]
    there = _names(found)
    return [f"{owner}.{name}" for name in names if name not in there]


def _called_otherwise(ours: type, theirs: type) -> list[str]:
    """The methods of a base class that ours replaces by some with other parameters."""
    both = [name for name, method in vars(ours).items() if inspect.isfunction(method) and name in vars(theirs)]
    return [
        f"{theirs.__name__}.{name}"
        for name in both
        if [*inspect.signature(vars(ours)[name]).parameters] != [*inspect.signature(vars(theirs)[name]).parameters]
    ]


def _names(found: Any) -> set[str]:
    """The attributes of a class and of its instances, and the parameters of a function or a constructor."""
    there = set(dir(found))
    with contextlib.suppress(TypeError, ValueError):  # some classes do not tell
        there |= set(inspect.signature(found).parameters)
    for owner in getattr(found, "__mro__", ()):
        there |= set(vars(owner).get("__annotations__", ()))
        for function in vars(owner).values():
            code = getattr(inspect.unwrap(function) if callable(function) else None, "__code__", None)
            if code is not None:
                there |= {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_ATTR"}
    return there


def check_setup(vllm_config: Any) -> None:
    """Refuses a set-up in which memories would be wrong.

    Raises:
        UnfitError: the message names every setting that stands in the way, and what it has to be.
    """
    parallel, speculative = vllm_config.parallel_config, vllm_config.speculative_config
    wrong = {
        "prefix caching is on, and keys and values depend on the memory: --no-enable-prefix-caching":
            vllm_config.cache_config.enable_prefix_caching,
        "LoRA is on, and would not reach the projections that are corrected: leave out --enable-lora":
            vllm_config.lora_config is not None,
        "layers are spread over several workers: --pipeline-parallel-size 1":
            parallel.pipeline_parallel_size > 1,
        "only drafts by n-grams are known to leave memories right: --speculative-config '{\"method\": \"ngram\", …}'":
            speculative is not None and speculative.method != "ngram",
        "the loop that reads and writes memories is compiled for CPUs only: use the CPU build of vLLM":
            vllm_config.device_config.device_type != "cpu",
    }  # fmt: skip
    if any(wrong.values()):
        raise UnfitError(
            "These settings do not work with memories: " + "; ".join(text for text, bad in wrong.items() if bad) + "."
        )


def check_pages(kv_cache_config: Any) -> None:
    """Refuses a page table by which a request cannot be found.

    Raises:
        UnfitError: pages lie in several groups, or are given back while their request runs.
    """
    groups = kv_cache_config.kv_cache_groups
    kinds = sorted({type(group.kv_cache_spec).__name__ for group in groups})
    sliding = any(getattr(group.kv_cache_spec, "sliding_window", None) for group in groups)
    if len(groups) != 1 or kinds != ["FullAttentionSpec"] or sliding:
        raise UnfitError(
            f"This backbone's pages are {len(groups)} × {', '.join(kinds)}{' with a window' if sliding else ''}; a "
            "request is found by its first page, which only full attention in all layers keeps."
        )


def speculated(vllm_config: Any) -> int:
    """How many tokens vLLM drafts at a time."""
    config = vllm_config.speculative_config
    return 0 if config is None else int(config.num_speculative_tokens)
