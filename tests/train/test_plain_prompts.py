"""Prompts that need no memory: read as they are, brought along by episodes, preserved by a training on chat data."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from toy import Items, episodes, recipe
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

import deltamem
from deltamem.chat import encode_chat
from deltamem.cli.main import main
from deltamem.train import Episode, EpisodeObjective, ObjectiveOptions, Text, collate
from deltamem.train.data import DataOptions, EpisodeDataset
from deltamem.train.plain import WithPlain
from deltamem.train.recipefile import RecipeError, parse_recipe
from deltamem.train.run import run
from deltamem.train.strangers import Strangers
from tiny import SMALL

ASSETS = Path(deltamem.__file__).parent / "demo" / "assets"
CONFIG = deltamem.DeltaMemConfig()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return PreTrainedTokenizerFast.from_pretrained(ASSETS)


def chat(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def written(path: Path, *conversations: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations), "utf-8")
    return path


PLAIN = (chat("What colour is the sky?", "Blue."), chat("Hello.", "Hello, how are you?", "Fine.", "Nice."))


@pytest.fixture
def plain(tmp_path: Path) -> DataOptions:
    return DataOptions(path=written(tmp_path / "plain.jsonl", *PLAIN), cache_dir=tmp_path / "cache")


def prompts(number: int) -> Items:
    return Items([Episode((), (Text((50 + i,), (1.0,), (0,)),)) for i in range(number)])


def test_all_of_a_plain_conversation_stays_visible_and_nothing_is_written(plain: DataOptions, tokenizer: Any) -> None:
    found = EpisodeDataset(plain, tokenizer, CONFIG, plain=True)
    assert [episode.history for episode in found] == [(), ()]
    for episode, messages in zip(found, PLAIN, strict=True):
        (query,) = episode.queries
        whole = encode_chat(tokenizer, messages).input_ids[0].tolist()
        before = encode_chat(tokenizer, messages[:-1]).input_ids.shape[1]
        assert list(query.ids) == whole
        assert query.weights == (0.0,) * before + (1.0,) * (len(whole) - before)
    assert EpisodeDataset(plain, tokenizer, CONFIG, plain=True).cached


def test_the_cache_tells_plain_prompts_from_episodes(tmp_path: Path, tokenizer: Any) -> None:
    options = DataOptions(path=written(tmp_path / "chats.jsonl", PLAIN[1]), cache_dir=tmp_path / "cache")
    assert EpisodeDataset(options, tokenizer, CONFIG)[0].history
    assert not EpisodeDataset(options, tokenizer, CONFIG, plain=True)[0].history


def test_every_prompt_comes_along_before_one_comes_again() -> None:
    with_plain = WithPlain(episodes(None, 12), prompts(5), seed=3)
    ids = [episode.plain[0].ids[0] for episode in with_plain]
    assert len(ids) == len(with_plain) == 12
    assert set(ids[:5]) == set(range(50, 55))
    assert ids[5:10] == ids[:5]
    assert [e.plain for e in WithPlain(episodes(None, 12), prompts(5), seed=4)] != [e.plain for e in with_plain]
    strange = Strangers(with_plain)
    assert [strange[place].plain for place in range(12)] == [e.plain for e in with_plain]  # type: ignore[union-attr]
    batch = collate([with_plain[0], with_plain[1]], 0)
    assert batch.plain is not None
    assert batch.plain.ids[:, 0].tolist() == ids[:2]


def test_ready_batches_bring_their_own() -> None:
    ready = Items([collate([*episodes(None, 4)], 0)])
    with pytest.raises(ValueError, match=r"EpisodeBatch\.plain"):
        WithPlain(ready, prompts(2))


def chat_recipe(folder: Path, plain: DataOptions, tokenizer: Any) -> dict[str, Any]:
    """A recipe of chat data on a small random backbone that lies in a folder."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        **SMALL,
        head_dim=8,
        max_position_embeddings=128,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder / "backbone")
    tokenizer.save_pretrained(folder / "backbone")
    told = [chat(f"My name is {name}.", "Nice.", "Who am I?", f"{name}.") for name in ("Ada", "Ravi", "Mia", "Tom")]
    values = recipe(
        folder / "run",
        adapter={"alpha": 16, "init_gain": 0.05, "heads": ["q", "k", "v", "o"]},
        objective={"preservation": 200.0},
        optimiser={"learning_rate": 5e-3},
        schedule={"steps": 20, "batch": 4, "micro_batch": 2},
        evaluation={"held_out": 2},
        output={"save_every": 100},
    )
    values["backbone"] = {"model": str(folder / "backbone")}
    values["data"] = {"path": str(written(folder / "chats.jsonl", *told)), "cache_dir": str(plain.cache_dir)}
    values["plain"] = {"path": str(plain.path), "cache_dir": str(plain.cache_dir)}
    return values


def drift(folder: Path, backbone: str, plain: DataOptions, tokenizer: Any) -> float:
    """The divergence of a trained adapter from the bare backbone on the plain prompts, beside a memory of one text."""
    model = Qwen3ForCausalLM.from_pretrained(backbone).eval()
    deltamem.load_adapter(model, folder)
    found = EpisodeDataset(plain, tokenizer, CONFIG, plain=True)
    told = Text(tuple(range(10, 20)), (0.0,) * 10, (0,) * 10)
    batch = collate([Episode((told,), e.queries, plain=e.queries) for e in found], 0)
    only = EpisodeObjective(model, ObjectiveOptions(cross_entropy=0, preservation=1))
    with torch.no_grad():
        return float(only(batch).loss)


def test_a_recipe_of_chat_data_preserves_what_needs_no_memory(
    tmp_path: Path, plain: DataOptions, tokenizer: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    values = chat_recipe(tmp_path, plain, tokenizer)
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(values), "utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["train", str(path)])
    assert ended.value.code == 0, capfd.readouterr().err
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert all(entry["loss_preservation"] >= 0 for entry in history if "loss" in entry)
    without = {**values, "objective": {"preservation": 0}, "output": {"folder": str(tmp_path / "without")}}
    run(parse_recipe(without))
    kept, changed = (
        drift(tmp_path / name, values["backbone"]["model"], plain, tokenizer) for name in ("run", "without")
    )
    assert kept < 0.5 * changed


def test_a_recipe_without_such_prompts_is_refused_before_anything_is_loaded(
    tmp_path: Path, plain: DataOptions, tokenizer: Any
) -> None:
    values = chat_recipe(tmp_path, plain, tokenizer)
    nowhere = {**values, "backbone": {"model": str(tmp_path / "nowhere")}}
    with pytest.raises(RecipeError, match=r"objective\.preservation needs .* give plain"):
        parse_recipe({name: value for name, value in nowhere.items() if name != "plain"})
    with pytest.raises(RecipeError, match=r"plain\.pth \(did you mean path\?\)"):
        parse_recipe({**nowhere, "plain": {"pth": "a.jsonl"}})
    with pytest.raises(ValueError, match=r"missing\.jsonl: no such file"):
        run(parse_recipe({**nowhere, "plain": {"path": "missing.jsonl"}}))


def test_a_factory_whose_episodes_have_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs prompts that need no memory, and the data has none"):
        run(parse_recipe(recipe(tmp_path, objective={"preservation": 1})))
