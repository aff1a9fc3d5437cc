"""What cannot be served is refused before it is, with the reason and what to do."""

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import deltamem
from deltamem.vllm.check import UNTESTED, UnfitError, check_front, check_pages, check_setup, check_version
from deltamem.vllm.flags import engine_arguments
from deltamem.vllm.request import MemoryRequest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from beside import make_model

    place = tmp_path_factory.mktemp("refusals")
    make_model("llama", place)
    return place


def configured(folder: Path, **changed: Any) -> Any:
    from vllm import EngineArgs

    arguments = engine_arguments(folder / "model", folder / "adapter")
    given = {"skip_tokenizer_init": True, "dtype": "float32", "enforce_eager": True, **changed}
    return EngineArgs(**{**arguments, **given}).create_engine_config()


def test_the_flags_fit(folder: Path):
    check_setup(configured(folder))
    check_version()
    check_front()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"enable_prefix_caching": True}, "--no-enable-prefix-caching"),
        ({"enable_lora": True}, "leave out --enable-lora"),
        ({"pipeline_parallel_size": 2}, "--pipeline-parallel-size 1"),
    ],
)
def test_set_ups_in_which_memories_would_be_wrong(folder: Path, changed: dict[str, Any], why: str):
    with pytest.raises(UnfitError, match=why):
        check_setup(configured(folder, **changed))


def test_another_version_of_vllm(monkeypatch: pytest.MonkeyPatch):
    import vllm

    monkeypatch.setattr(vllm, "__version__", "0.99.1")
    with pytest.raises(UnfitError, match=f"This is vLLM 0.99.1.*{UNTESTED}=1"):
        check_version()
    monkeypatch.setenv(UNTESTED, "1")
    check_version()


BASE = "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1"


@pytest.mark.parametrize(
    ("place", "lack"),
    [
        ("vllm.model_executor.models.registry:_ModelRegistry.register_model", "ModelRegistry.register_model"),
        (f"{BASE}.update_state_after_alloc", "KVConnectorBase_V1.update_state_after_alloc"),
        ("vllm.model_executor.models.qwen3:Qwen3Attention.__init__", "Qwen3Attention.qkv_proj"),  # which it sets
        ("vllm.v1.request:Request.num_tokens", "Request.num_tokens"),
        ("vllm.forward_context:get_forward_context", "vllm.forward_context:get_forward_context"),
        ("vllm.v1.core.kv_cache_manager", "vllm.v1.core.kv_cache_manager:KVCacheBlocks"),
        ("vllm.v1.engine.llm_engine:LLMEngine.abort_request", "LLMEngine.abort_request"),
        ("vllm.engine.protocol:EngineClient.collective_rpc", "EngineClient.collective_rpc"),
    ],
)
def test_a_vllm_that_lacks_something_is_refused_by_its_name(place: str, lack: str, monkeypatch: pytest.MonkeyPatch):
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    if path:
        monkeypatch.delattr(owner, name)
    else:
        monkeypatch.setitem(sys.modules, module, None)
    check = check_front if "engine" in module else check_version
    with pytest.raises(UnfitError, match=rf"lacks {lack}[ ,].*which δ-mem needs"):
        check()


def test_a_vllm_that_calls_a_hook_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch):
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1

    monkeypatch.setattr(KVConnectorBase_V1, "build_connector_meta", lambda self, output, step: None)
    with pytest.raises(UnfitError, match=r"other parameters for KVConnectorBase_V1\.build_connector_meta;"):
        check_version()


def test_pages_that_are_given_back_while_their_request_runs():
    from vllm.v1.kv_cache_interface import SlidingWindowSpec

    spec = object.__new__(SlidingWindowSpec)
    pages = types.SimpleNamespace(kv_cache_groups=[types.SimpleNamespace(kv_cache_spec=spec)])
    with pytest.raises(UnfitError, match="SlidingWindowSpec"):
        check_pages(pages)


def test_an_architecture_that_cannot_remember(tmp_path: Path):
    from transformers import GPT2Config

    config = GPT2Config(architectures=["GPT2LMHeadModel"])
    config.save_pretrained(tmp_path)
    with pytest.raises(UnfitError, match="GPT2LMHeadModel; on vLLM these can remember: LlamaForCausalLM"):
        engine_arguments(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"write": "message"}, "written token by token only"),
        ({"hidden_size": 32}, "made for a backbone with hidden size"),
    ],
)
def test_adapters_that_do_not_fit(folder: Path, tmp_path: Path, changed: dict[str, Any], why: str):
    from transformers import AutoModelForCausalLM, LlamaConfig
    from vllm import LLM

    size = changed.pop("hidden_size", 64)
    config = LlamaConfig.from_pretrained(folder / "model", hidden_size=size)
    model = AutoModelForCausalLM.from_config(config)
    deltamem.attach(model, deltamem.DeltaMemConfig(rank=4, init="zero", **changed))
    deltamem.save_adapter(model, tmp_path)
    arguments = engine_arguments(folder / "model", tmp_path)
    with pytest.raises(deltamem.AdapterFileError, match=why):
        LLM(**{**arguments, "dtype": "float32"}, skip_tokenizer_init=True, enforce_eager=True, max_model_len=100)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"deltamem": {"sesion": "a"}}, "not \\['sesion'\\]"),
        ({"deltamem": {"state": "%%"}}, "state is not base64"),
        ({"deltamem": {"write": 3}}, "write must be base64 or bytes"),
        ({"deltamem": {"ticket": 3}}, "ticket must be text"),
    ],
)
def test_requests_that_say_nonsense(said: dict[str, Any], why: str):
    with pytest.raises(ValueError, match=why):
        MemoryRequest.of(said)


def test_flags_that_do_not_belong_to_the_prompt():
    with pytest.raises(ValueError, match="2 flags for 3 tokens"):
        MemoryRequest(write=b"\0\1").flags(3)
