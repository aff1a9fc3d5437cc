"""Models by name, from folders and from GGUF files, with their adapters."""

import json
from pathlib import Path

import pytest
import torch
from gguf_files import write_gguf

import deltamem
from deltamem.models.catalog import MODELS, KnownModel, find_source
from deltamem.models.loading import choose_device, load_config, load_tokenizer, load_weights


def test_the_toy_by_name_answers_from_its_memory() -> None:
    model, tokenizer = deltamem.load_model("embedded")
    session = deltamem.Session(model, tokenizer, window=0)
    session.observe("I settled in Lisbon some years ago.")
    assert session.reply("Which city do I live in?", do_sample=False) == "Lisbon."
    assert deltamem.attached(model).configs["default"].states == 4


def test_an_adapter_by_its_name_by_its_folder_or_none() -> None:
    token, _ = deltamem.load_model("embedded", "token")
    folder, _ = deltamem.load_model("embedded", MODELS["embedded"].shipped()["token"])
    assert deltamem.adapter_fingerprint(token) == deltamem.adapter_fingerprint(folder)
    bare, _ = deltamem.load_model("embedded", adapter=None)
    with pytest.raises(ValueError, match="carries no memory"):
        deltamem.attached(bare)


def test_an_adapter_that_is_missing_says_which_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        deltamem.AdapterFileError, match=r"no adapter 'dual' for embedded; there are: multi, segment, token"
    ):
        deltamem.load_model("embedded", "dual")
    monkeypatch.setitem(MODELS, "own", KnownModel("own", "mine", "none", None, "models/nowhere"))
    with pytest.raises(deltamem.AdapterFileError, match="no adapter 'multi' for own; there is none yet"):
        deltamem.load_model("own")
    with pytest.raises(deltamem.AdapterFileError, match="no adapter folder multi"):
        deltamem.load_model(tmp_path, "multi")


def test_a_model_that_is_missing_names_the_command() -> None:
    with pytest.raises(
        FileNotFoundError, match=r"smollm2 is not on this machine\. Fetch it \(93 MB\): deltamem pull smollm2"
    ):
        deltamem.load_model("smollm2", adapter=None)


def test_a_folder_or_file_that_is_not_there_is_not_taken_for_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model folder .*Hub id .*embedded, smollm2, gemma3-270m"):
        find_source(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no GGUF file"):
        find_source(tmp_path / "nothing.gguf")
    assert find_source("owner/name").place == "owner/name"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no model folder misspelt"):
        find_source("misspelt")
    (tmp_path / "models--gpt2").mkdir()
    assert find_source("gpt2").place == "gpt2"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for load in (load_config, load_tokenizer, load_weights):
        with pytest.raises(OSError, match="no folder owner/misspelt here, and it does not come from the Hub: "):
            load("owner/misspelt")


def test_a_gguf_file_is_a_model(tmp_path: Path) -> None:
    original = write_gguf(tmp_path / "small.gguf")
    with pytest.raises(
        FileNotFoundError, match=r"holds GGUF files and no config\.json; name the file: --model .*small\.gguf"
    ):
        find_source(tmp_path)
    assert load_config(tmp_path / "small.gguf").hidden_size == 32
    model, tokenizer = deltamem.load_model(tmp_path / "small.gguf", adapter=None)
    ids = tokenizer("the", return_tensors="pt").input_ids
    torch.testing.assert_close(model(ids).logits, original(ids).logits, rtol=1e-4, atol=1e-5)
    deltamem.attach(model, deltamem.DeltaMemConfig(init="random", init_gain=1.0))
    session = deltamem.Session(model, tokenizer)
    session.reply("the", max_new_tokens=4)
    assert float(session.state.norms().norm()) > 0


def test_an_adapter_in_bfloat16_is_read_and_computes_in_float32(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model, _ = deltamem.load_model("embedded", "token")
    deltamem.save_adapter(model, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    # The package's adapters were rounded to bfloat16 before they were saved, so this loses nothing.
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in load_file(file).items()}, file)
    again, _ = deltamem.load_model("embedded", tmp_path)
    assert deltamem.adapter_fingerprint(again) == deltamem.adapter_fingerprint(model)
    (memory, *_) = deltamem.attached(again).memories()
    assert {parameter.dtype for parameter in memory.parameters()} == {torch.float32}


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match=r"A device is auto, cpu, cuda, cuda:NUMBER or mps, not 'gpu'"):
        choose_device("gpu")
    with pytest.raises(ValueError, match="PyTorch sees no device cuda:99 here"):
        choose_device("cuda:99")


def test_the_gemma_template_gives_turns_and_puts_the_system_message_first() -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    pullable = MODELS["gemma3-270m"].pullable
    assert pullable is not None
    assert pullable.chat_template is not None
    render = ImmutableSandboxedEnvironment().from_string(pullable.chat_template).render
    messages = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")]
    shown = render(
        bos_token="<bos>",
        messages=[{"role": role, "content": text} for role, text in messages],
        add_generation_prompt=True,
    )
    assert shown == (
        "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n"
        "<start_of_turn>model\n"
    )


def test_every_row_is_whole() -> None:
    for name, model in MODELS.items():
        assert model.name == name
        if model.pullable is None:
            assert json.loads((model.folder / "config.json").read_text())
            continue
        digests = [model.pullable.gguf_sha256, *(wheel.sha256 for wheel in model.pullable.wheels)]
        assert all(len(digest) == 64 and int(digest, 16) for digest in digests)
