"""The dataset: episodes, the report, the cache, and what happens at a bad line."""

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from deltamem.config import DeltaMemConfig
from deltamem.train import collate
from deltamem.train.data import BadDataError, DataOptions, EpisodeDataset, LengthGroupedBatches
from deltamem.train.data.cache import default_folder

TOKEN = DeltaMemConfig()


def line(number: int, told: int = 1) -> str:
    turns = [{"role": "user", "content": f"Fact {number}. " * told}, {"role": "user", "content": "Which?"}]
    return json.dumps({"messages": [*turns, {"role": "assistant", "content": f"{number}"}]})


@pytest.fixture
def options(tmp_path: Path) -> DataOptions:
    file = tmp_path / "chats.jsonl"
    file.write_text("\n".join(line(number, 1 + number % 5) for number in range(12)), encoding="utf-8")
    return DataOptions(path=file, cache_dir=tmp_path / "cache")


def add(options: DataOptions, *lines: str) -> None:
    with open(str(options.path), "a", encoding="utf-8") as file:
        file.write("".join(f"\n{text}" for text in lines))


def cached_files(options: DataOptions) -> list[Path]:
    return list(Path(str(options.cache_dir)).iterdir())


def test_tokenised_once_and_read_from_the_cache_afterwards(options: DataOptions, tokenizer: Any) -> None:
    first = EpisodeDataset(options, tokenizer, TOKEN)
    again = EpisodeDataset(options, tokenizer, TOKEN)
    assert (first.cached, again.cached) == (False, True)
    assert list(first) == list(again)
    assert (len(first), first.report.lines, first.report.skipped) == (12, 12, 0)
    assert first.report == again.report
    assert first.lengths == [e.tokens + len(e.queries[0].ids) for e in first]
    assert [path.suffix for path in cached_files(options)] == [".safetensors"]


def test_the_cache_is_of_this_data_this_tokenizer_and_these_rules(
    options: DataOptions, tokenizer: Any, with_template: Any
) -> None:
    def is_cached(options: DataOptions, tokenizer: Any = tokenizer, config: DeltaMemConfig = TOKEN) -> bool:
        return EpisodeDataset(options, tokenizer, config).cached

    assert not is_cached(options)
    assert is_cached(replace(options, on_bad="skip"))
    assert is_cached(options, config=DeltaMemConfig(write="message", rank=4))
    assert not is_cached(options, config=DeltaMemConfig(write="sentence"))
    assert not is_cached(replace(options, write_tokens=5))
    assert not is_cached(replace(options, template={"enable_thinking": False}))
    assert not is_cached(options, with_template("{% for m in messages %}{{ m.content }}\n{% endfor %}"))
    add(options, line(99))
    assert not is_cached(options)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_cache_is_made_again_and_says_so(
    options: DataOptions, tokenizer: Any, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = list(EpisodeDataset(options, tokenizer, TOKEN))
    (file,) = cached_files(options)
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes({"cut": data[:-20], "flipped": data, "empty": b""}[damage])
    again = EpisodeDataset(options, tokenizer, TOKEN)
    assert not again.cached
    assert list(again) == whole
    assert f"{file} is damaged" in caplog.text
    assert EpisodeDataset(options, tokenizer, TOKEN).cached


def test_a_cache_that_cannot_be_written_stops_nothing(
    options: DataOptions, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = replace(options, cache_dir=options.path)
    assert len(EpisodeDataset(blocked, tokenizer, TOKEN)) == 12
    assert "Cannot keep the tokenised data" in caplog.text


def test_the_default_cache_is_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DELTAMEM_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert default_folder() == tmp_path / "deltamem" / "episodes"
    monkeypatch.setenv("DELTAMEM_HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home" / "episodes"


def test_a_bad_line_stops_the_run_or_is_counted(
    options: DataOptions, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    add(options, '{"messages"', line(13), '{"prompt": "a", "response": "b"}')
    place = f"{options.path}:13: not JSON: Expecting ':' delimiter at column 12"
    with pytest.raises(BadDataError, match="on_bad='skip'") as stopped:
        EpisodeDataset(options, tokenizer, TOKEN)
    assert place in str(stopped.value)
    with caplog.at_level(logging.WARNING):
        found = EpisodeDataset(replace(options, on_bad="skip"), tokenizer, TOKEN)
    assert (len(found), found.report.lines, found.report.skipped) == (13, 15, 2)
    assert str(found.report.bad[0]) == place
    assert "nothing to remember" in found.report.bad[1].reason
    assert "Skipped 2 lines" in caplog.text
    # The cache of the run that skipped does not hide the bad line from one that must stop.
    with pytest.raises(BadDataError, match="not JSON"):
        EpisodeDataset(options, tokenizer, TOKEN)


def test_data_without_an_episode_is_refused(options: DataOptions, tokenizer: Any) -> None:
    Path(str(options.path)).write_text("1\n2\n", encoding="utf-8")
    with pytest.raises(BadDataError, match=r"None of the 2 lines gives an episode; the first: .*a number"):
        EpisodeDataset(replace(options, on_bad="skip"), tokenizer, TOKEN)
    Path(str(options.path)).write_text("\n", encoding="utf-8")
    with pytest.raises(BadDataError, match="has no lines"):
        EpisodeDataset(options, tokenizer, TOKEN)


def test_a_limit_draws_lines_by_seed(options: DataOptions, tokenizer: Any) -> None:
    def drawn(seed: int) -> list[Any]:
        return list(EpisodeDataset(replace(options, limit=4, seed=seed), tokenizer, TOKEN))

    every = list(EpisodeDataset(options, tokenizer, TOKEN))
    assert drawn(0) == drawn(0)
    assert len({tuple(every.index(episode) for episode in drawn(seed)) for seed in range(4)}) > 1
    places = [every.index(episode) for episode in drawn(0)]
    assert places == sorted(places)


def test_cut_parts_are_counted(options: DataOptions, tokenizer: Any) -> None:
    found = EpisodeDataset(replace(options, write_tokens=20, read_tokens=10), tokenizer, TOKEN)
    assert max(e.tokens for e in found) == 20
    assert max(len(e.queries[0].ids) for e in found) == 10
    assert 0 < found.report.cut_histories < 12
    assert found.report.cut_reads == 12


def test_questions_on_one_text_share_its_tokens_on_disk(options: DataOptions, tokenizer: Any) -> None:
    told = {"role": "user", "content": "I live in Lisbon. " * 100}
    rows = [[told, {"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "a"}] for n in range(9)]
    text = "\n".join(json.dumps({"messages": row}) for row in rows)
    Path(str(options.path)).write_text(text, encoding="utf-8")
    found = EpisodeDataset(options, tokenizer, TOKEN)
    assert len({episode.history for episode in found}) == 1
    assert len(found.table.ids) < 2 * found[0].tokens
    assert found.texts == [0] * 9


def test_episodes_of_one_text_have_one_number(options: DataOptions, tokenizer: Any) -> None:
    roles = ["user", "assistant"] * 3
    chats = [[{"role": role, "content": f"{name} {role}"} for role in roles] for name in ("a", "b", "a")]
    alone = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    rows = [*({"messages": chat} for chat in chats), alone, alone]
    Path(str(options.path)).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    every = replace(options, target="every", needs_history=False)
    assert EpisodeDataset(every, tokenizer, TOKEN).texts == [0] * 3 + [1] * 3 + [0] * 3 + [2, 3]


def test_a_dataloader_feeds_batches_to_the_trainer(options: DataOptions, tokenizer: Any) -> None:
    found = EpisodeDataset(options, tokenizer, TOKEN)
    loader = DataLoader(
        found,
        batch_sampler=LengthGroupedBatches(found.lengths, 4),
        collate_fn=lambda episodes: collate(episodes, tokenizer.pad_token_id),
    )
    batches = list(loader)
    assert [len(batch.episode_of) for batch in batches] == [4, 4, 4]
    written = sum(int(batch.passages[0].mask.sum()) for batch in batches)
    assert written == int(found.table.written.sum())


def test_a_data_set_of_the_hubs_kind_gives_the_same_episodes(
    options: DataOptions, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(Path(str(options.path)).read_bytes())
    from_hub = EpisodeDataset(replace(options, path=None, hub=str(folder)), tokenizer, TOKEN)
    assert list(from_hub) == list(EpisodeDataset(options, tokenizer, TOKEN))
    with pytest.raises(BadDataError, match=f"Cannot load {folder}/test from the Hub"):
        EpisodeDataset(replace(options, path=None, hub=str(folder), split="test"), tokenizer, TOKEN)


def test_the_digest_is_of_the_lines_and_not_of_their_place(
    options: DataOptions, tokenizer: Any, tmp_path: Path
) -> None:
    here = EpisodeDataset(options, tokenizer, TOKEN)
    moved = tmp_path / "elsewhere.jsonl"
    moved.write_bytes(Path(str(options.path)).read_bytes())
    assert EpisodeDataset(replace(options, path=moved), tokenizer, TOKEN).digest == here.digest
    add(options, line(99))
    assert EpisodeDataset(options, tokenizer, TOKEN).digest != here.digest
