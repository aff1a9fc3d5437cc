"""What is checked before anything is loaded: that the plugin knows this vLLM, and that its set-up keeps memories right.

Everything that the plugin leans on is named here, so that a version that lacks it is refused instead of misread.
"""
# vLLM is not there where the product's own checks run
# mypy: disable-error-code="no-any-return"

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

_HOOKS = (
    "bind_connector_metadata",
    "build_connector_meta",
    "get_block_ids_with_load_errors",
    "get_num_new_matched_tokens",
    "request_finished",
    "update_state_after_alloc",
)
_METADATA = ("block_table", "query_start_loc", "seq_lens")


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
    """Refuses a vLLM that lacks what the plugin leans on.

    Raises:
        UnfitError: it does.
    """
    import vllm
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionMetadata

    version = str(vllm.__version__)
    if not version.startswith(f"{TESTED}.") and not os.environ.get(UNTESTED):
        raise UnfitError(
            f"This is vLLM {version}; δ-mem is tested with {TESTED}. Install that, or set {UNTESTED}=1 to try this one."
        )
    lacking = [name for name in _HOOKS if not callable(getattr(KVConnectorBase_V1, name, None))]
    lacking += sorted(set(_METADATA) - set(inspect.signature(CPUAttentionMetadata).parameters))
    if lacking:
        raise UnfitError(f"vLLM {version} lacks {', '.join(lacking)}, which δ-mem needs; it is tested with {TESTED}.")


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
