"""Adapters between models, folders and the Hub."""

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import deltamem
from deltamem import AdapterFileError, DeltaMemConfig, Step
from deltamem.formats.hub import read_adapter_from
from tiny import adapted, backbone, enliven, live_state, tokens

GOLDEN = Path(__file__).parent / "golden"


def logits(model: nn.Module) -> Tensor:
    step = Step(live_state(model, 2))
    with torch.no_grad():
        return model(tokens(2, 11), memory=step, use_cache=False).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"states": 3, "coupled_gates": False, "heads": ("k",), "scale": "layer"},
        {"layers": "middle:1", "output_norm": True, "rowwise_gates": False, "states": 2},
    ],
)
def test_a_loaded_adapter_answers_bit_for_bit_like_the_saved_one(config: dict[str, Any], tmp_path: Path) -> None:
    model, other = adapted(**config), backbone()
    deltamem.save_adapter(model, tmp_path / "a" / "b")
    attachment = deltamem.load_adapter(other, tmp_path / "a" / "b")
    assert attachment.config == deltamem.attached(model).config
    assert torch.equal(logits(other), logits(model))
    assert deltamem.adapter_fingerprint(other) == deltamem.adapter_fingerprint(model)


@pytest.mark.parametrize("family", ["phi3", "gpt2", "gpt_neox", "gemma3"])
def test_other_families_save_and_load(family: str, tmp_path: Path) -> None:
    model, other = adapted(family), backbone(family)
    deltamem.save_adapter(model, tmp_path)
    deltamem.load_adapter(other, str(tmp_path))
    assert torch.equal(logits(other), logits(model))


def test_a_loaded_adapter_trains_on(tmp_path: Path) -> None:
    model = backbone()
    deltamem.load_adapter(model, deltamem.save_adapter(adapted(), tmp_path))
    model(tokens(1, 5), use_cache=False).logits.sum().backward()
    trained = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert trained
    assert all(".adapters.default." in name for name in trained)


def test_several_adapters_are_told_apart_by_name(tmp_path: Path) -> None:
    model = adapted()
    deltamem.save_adapter(model, tmp_path / "one")
    enliven(model, seed=9)
    deltamem.save_adapter(model, tmp_path / "two", "default")
    both = backbone()
    deltamem.load_adapter(both, tmp_path / "one", "one")
    attachment = deltamem.load_adapter(both, tmp_path / "two", "two")
    assert attachment.active == "two"
    assert torch.equal(logits(both), logits(model))
    assert deltamem.adapter_fingerprint(both, "one") != deltamem.adapter_fingerprint(both)
    deltamem.save_adapter(both, tmp_path / "again", "one")
    assert (tmp_path / "again/adapter.safetensors").read_bytes() == (tmp_path / "one/adapter.safetensors").read_bytes()
    deltamem.load_adapter(both, tmp_path / "two", "one")  # nothing is lost: the first is in its folder as it was
    assert deltamem.adapter_fingerprint(both, "one") == deltamem.adapter_fingerprint(both, "two")
    assert list(attachment.configs) == ["two", "one"]
    enliven(both)
    with pytest.raises(ValueError, match="There is an adapter named 'one' already, and it has changed since"):
        deltamem.load_adapter(both, tmp_path / "one", "one")
    with pytest.raises(ValueError, match="no adapter 'three'"):
        deltamem.save_adapter(both, tmp_path / "three", "three")


def test_an_adapter_of_another_backbone_is_refused_and_nothing_stays_attached(tmp_path: Path) -> None:
    folder = deltamem.save_adapter(adapted("qwen3"), tmp_path, base_model="owner/qwen3")
    model = backbone("qwen2")
    modules = dict(model.named_modules())
    with pytest.raises(AdapterFileError, match=r"with q width 64, not 32; .*It belongs to owner/qwen3\."):
        deltamem.load_adapter(model, folder)
    assert dict(model.named_modules()) == modules
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match="carries no memory"):
        deltamem.attached(model)


def test_an_adapter_that_names_a_layer_the_backbone_lacks_is_refused(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "qwen3_layers_1_3", tmp_path / "case")
    config = AutoModelForCausalLM.from_pretrained(GOLDEN / "backbone_qwen3").config
    config.num_hidden_layers, config.layer_types = 2, config.layer_types[:2]
    with pytest.raises(AdapterFileError, match="layers 0 to 1"):
        deltamem.load_adapter(AutoModelForCausalLM.from_config(config), tmp_path / "case")


def test_a_damaged_adapter_leaves_those_already_there(tmp_path: Path) -> None:
    model = adapted()
    before = logits(model)
    deltamem.save_adapter(model, tmp_path)
    (tmp_path / "adapter.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(AdapterFileError, match="truncated or damaged"):
        deltamem.load_adapter(model, tmp_path, "second")
    assert list(deltamem.attached(model).configs) == ["default"]
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("name", ["deltamem_adapter.json", "delta_mem_config.json"])
def test_a_description_nested_too_deeply_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"rank": ' + "[" * 20_000)
    with pytest.raises(AdapterFileError, match="nested too deeply"):
        deltamem.load_adapter(backbone(), tmp_path)


def test_loading_needs_no_weights_of_the_backbone(tmp_path: Path) -> None:
    """As with a quantised backbone whose projections do not give their weights."""
    model = backbone()
    deltamem.attach(model, DeltaMemConfig(rank=4, init="base_slice"))
    enliven(model)
    deltamem.save_adapter(model, tmp_path)
    sealed = backbone().requires_grad_(False)
    for layer in sealed.model.layers:
        layer.self_attn.q_proj.weight.data = layer.self_attn.q_proj.weight.data.to(torch.int8)
    attachment = deltamem.load_adapter(sealed, tmp_path)
    assert attachment.config.init == "base_slice"
    assert deltamem.adapter_fingerprint(sealed) == deltamem.adapter_fingerprint(model)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/folder", "no adapter folder no/such/folder"),
        ("../nowhere", "no adapter folder ../nowhere"),
        (str(GOLDEN / "backbone_qwen3"), "neither deltamem_adapter.json nor delta_mem_config.json"),
    ],
)
def test_a_source_that_is_no_adapter_is_refused(source: str, message: str) -> None:
    with pytest.raises(AdapterFileError, match=message):
        deltamem.load_adapter(backbone(), source)


def recorded(folder: Path) -> tuple[str | None, str | None]:
    found = json.loads((folder / "deltamem_adapter.json").read_text())
    return found["base_model"], found["base_revision"]


def test_the_backbones_id_is_recorded_but_never_a_path(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / "backbone_qwen3")
    deltamem.attach(model)
    deltamem.save_adapter(model, tmp_path)
    assert recorded(tmp_path) == (None, None)
    assert str(GOLDEN) not in (tmp_path / "README.md").read_text() + (tmp_path / "deltamem_adapter.json").read_text()
    deltamem.detach(model)
    model.config._name_or_path, model.config._commit_hash = "owner/name", "abc"
    deltamem.attach(model)
    enliven(model)
    deltamem.save_adapter(model, tmp_path)
    assert recorded(tmp_path) == ("owner/name", "abc")
    deltamem.save_adapter(model, tmp_path, base_model="another/one")
    assert recorded(tmp_path) == ("another/one", None)
    with pytest.warns(UserWarning, match="trained on another/one and you are loading it onto owner/name"):
        deltamem.load_adapter(model, tmp_path, "second")


def test_a_relative_folder_is_no_id_wherever_one_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN.parent)
    model = AutoModelForCausalLM.from_pretrained("golden/backbone_qwen3")
    deltamem.attach(model)
    monkeypatch.chdir(tmp_path)
    deltamem.save_adapter(model, tmp_path)
    assert recorded(tmp_path) == (None, None)


def test_a_disabled_adapter_is_saved_by_its_name(tmp_path: Path) -> None:
    model = adapted()
    with deltamem.disabled(model):
        with pytest.raises(ValueError, match="the memory is disabled; name one of: default"):
            deltamem.save_adapter(model, tmp_path)
        deltamem.save_adapter(model, tmp_path, "default")
    assert deltamem.adapter_fingerprint(model) == read_adapter_from(tmp_path).fingerprint


def test_the_card_tells_how_to_load_and_is_left_alone_once_edited(tmp_path: Path) -> None:
    model = adapted()
    deltamem.save_adapter(model, tmp_path, base_model="owner/name")
    card = (tmp_path / "README.md").read_text()
    for part in ("base_model: owner/name", "deltamem.load_adapter(model", "| `rank` | `4` |", "2605.12357"):
        assert part in card
    deltamem.save_adapter(model, tmp_path, base_model="another/name")
    assert "another/name" in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text("My own words.")
    deltamem.save_adapter(model, tmp_path)
    assert (tmp_path / "README.md").read_text() == "My own words."


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub cache holding one adapter in the release's format, and no network."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--owner--adapter"
    shutil.copytree(GOLDEN / "qwen3_tsw_qo", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_a_hub_id_is_fetched(hub_cache: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / "backbone_qwen3")
    deltamem.load_adapter(model, "owner/adapter")
    other = AutoModelForCausalLM.from_pretrained(GOLDEN / "backbone_qwen3")
    deltamem.load_adapter(other, GOLDEN / "qwen3_tsw_qo")
    assert deltamem.adapter_fingerprint(model) == deltamem.adapter_fingerprint(other)
    with pytest.raises(AdapterFileError, match="no folder owner/other, and the Hub did not give"):
        deltamem.load_adapter(model, "owner/other", "other")


class _Hub(BaseHTTPRequestHandler):
    """As much of the Hub as an upload needs; keeps the committed files on the server."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        home = f"http://{self.headers['Host']}/owner/adapter"
        if self.path.endswith("/repos/create"):
            answer: dict[str, Any] = {"url": home}
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            answer = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
        elif self.path.endswith("/validate-yaml"):
            answer = {"errors": [], "warnings": []}
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])  # type: ignore[attr-defined]
            answer = {"success": True, "commitOid": "1" * 40, "commitUrl": f"{home}/commit/1"}
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.files = {}  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_adapter_is_pushed_whole(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    model = adapted()
    address = deltamem.push_to_hub(
        model, "owner/adapter", base_model="owner/name", license="apache-2.0", token="hf_token"
    )
    assert address.endswith("/owner/adapter/commit/1")
    for name, data in hub.files.items():  # type: ignore[attr-defined]
        (tmp_path / name).write_bytes(data)
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "deltamem_adapter.json", "adapter.safetensors"}
    card = (tmp_path / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert 'load_adapter(model, "owner/adapter")' in card
    other = backbone()
    deltamem.load_adapter(other, tmp_path)
    assert torch.equal(logits(other), logits(model))


def test_an_adapter_that_was_never_trained_says_so(tmp_path: Path) -> None:
    model = backbone()
    deltamem.attach(model)
    deltamem.save_adapter(model, tmp_path / "fresh")
    with pytest.warns(UserWarning, match=r"never trained.*babble.*deltamem train.*init='zero'"):
        deltamem.load_adapter(backbone(), tmp_path / "fresh")
    for name, harmless in {"zero": DeltaMemConfig(init="zero"), "fixed": DeltaMemConfig(gates="fixed")}.items():
        other = backbone()
        deltamem.attach(other, harmless)
        deltamem.save_adapter(other, tmp_path / name)
        deltamem.load_adapter(backbone(), tmp_path / name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_backbone_with_other_weights_is_noticed(dtype: torch.dtype, tmp_path: Path) -> None:
    deltamem.save_adapter(adapted(), tmp_path)
    same = backbone().to(dtype)
    deltamem.load_adapter(same, tmp_path)
    other = backbone()
    with torch.no_grad():
        other.model.layers[-1].self_attn.o_proj.weight.mul_(1.02)
    with pytest.warns(UserWarning, match="made for a backbone with other weights than this Qwen3ForCausalLM has"):
        deltamem.load_adapter(other.to(dtype), tmp_path)


def test_weights_that_cannot_be_read_exactly_are_not_compared(tmp_path: Path) -> None:
    deltamem.save_adapter(adapted(), tmp_path)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(backbone().config)
    assert deltamem.attach(empty, DeltaMemConfig(init="zero"), name="first").sample is None
    deltamem.load_adapter(empty, tmp_path)
