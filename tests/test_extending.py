"""What another package adds at the centre: an update rule, a write strategy, a model family; registered or declared."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import deltamem
from deltamem.config import ConfigError
from deltamem.extensions import how_to_install
from deltamem.ops import decode
from deltamem.rules import UPDATE_RULES, WRITE_STRATEGIES
from deltamem.train.data import DataOptions
from deltamem.train.data.encode import EpisodeEncoder
from talkers import chat_tokenizer, talker
from tiny import adapted, assert_same_state, backbone, enliven, live_state, tokens


def fading(keep: Any, beta: Any) -> tuple[Any, Any, Any]:
    return 0.875 * keep, beta * beta, beta


def clipped(keep: Any, beta: Any) -> tuple[Any, Any, Any]:
    return torch.where(keep > 0.9, keep, keep * 0.5), beta, beta


@pytest.fixture
def rule(request: pytest.FixtureRequest) -> Iterator[str]:
    name = request.param.__name__
    deltamem.register_update_rule(deltamem.UpdateRule(name, request.param))
    yield name
    UPDATE_RULES.drop(name)


@pytest.mark.parametrize("rule", [fading], indirect=True)
def test_an_update_rule_of_another_package_reads_writes_decodes_and_trains(rule: str) -> None:
    model = adapted(update_rule=rule)
    ids = tokens(2, 7)
    start = live_state(model, 2)
    whole = deltamem.Step(start)
    with torch.no_grad():
        together = model(ids, memory=whole).logits
        cache = deltamem.memory_cache(model, start)
        apart = torch.cat([model(ids[:, t : t + 1], past_key_values=cache).logits for t in range(ids.shape[1])], 1)
    torch.testing.assert_close(apart, together, rtol=1e-4, atol=1e-4)
    assert_same_state(cache.memory, whole.new_state)
    assert decode.compiles(deltamem.attached(model).memories()[0].form)

    standard = adapted()
    other = deltamem.Step(start)
    with torch.no_grad():
        standard(ids, memory=other)
    assert other.new_state.diff(whole.new_state).min() > 1e-3

    step = deltamem.Step(start)
    model(ids, memory=step).logits.sum().backward()
    assert all(bool(p.grad.abs().max() > 0) for m in deltamem.attached(model).memories() for p in m.parameters())


@pytest.mark.parametrize("rule", [fading], indirect=True)
def test_an_adapter_with_an_unknown_rule_says_what_to_do(rule: str, tmp_path: Path) -> None:
    model = adapted(update_rule=rule)
    deltamem.save_adapter(model, tmp_path)
    fresh = backbone()
    deltamem.load_adapter(fresh, tmp_path)
    assert deltamem.adapter_fingerprint(fresh) == deltamem.adapter_fingerprint(model)
    UPDATE_RULES.drop(rule)
    with pytest.raises(deltamem.AdapterFileError, match=r"update_rule must be one of .*'fading'.*register_update_rule"):
        deltamem.load_adapter(backbone(), tmp_path)


@pytest.mark.parametrize("rule", [clipped], indirect=True)
def test_a_rule_that_is_no_plain_arithmetic_runs_uncompiled(rule: str, caplog: pytest.LogCaptureFixture) -> None:
    model = adapted(update_rule=rule)
    ids, cache, whole = tokens(1, 4), deltamem.memory_cache(model), deltamem.Step(deltamem.new_state(model))
    with torch.no_grad():
        together = model(ids, memory=whole).logits
        apart = torch.cat([model(ids[:, t : t + 1], past_key_values=cache).logits for t in range(4)], 1)
    torch.testing.assert_close(apart, together, rtol=1e-4, atol=1e-4)
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "The update rule clipped runs uncompiled, and slower"
    ]


def clauses(text: str) -> Iterator[tuple[int, int]]:
    """What stands between commas."""
    return (found.span() for found in re.finditer("[^,]+", text))


@pytest.fixture
def strategy() -> Iterator[str]:
    deltamem.register_write_strategy(deltamem.WriteStrategy("clause", clauses))
    yield "clause"
    WRITE_STRATEGIES.drop("clause")


def test_a_write_strategy_of_another_package_writes_in_sessions_documents_and_training(strategy: str) -> None:
    model, tokenizer = talker(), chat_tokenizer()
    deltamem.attach(model, deltamem.DeltaMemConfig(rank=4, write=strategy), name=strategy)
    enliven(model)
    told = "I live in Lisbon, my tortoise is old, Ravi plays the cello."
    chat = deltamem.encode_chat(tokenizer, [{"role": "user", "content": told}], segments=strategy)
    assert [tokenizer.decode(chat.input_ids[chat.segment == number]).strip(" .") for number in range(3)] == [
        "I live in Lisbon",
        "my tortoise is old",
        "Ravi plays the cello",
    ]

    session = deltamem.Session(model, tokenizer)
    session.observe(told)
    step = deltamem.Step(deltamem.new_state(model), segment_ids=chat.segment, write=chat.of([0]), close=True)
    with torch.no_grad():
        deltamem.attached(model).base(chat.input_ids, memory=step)
    assert_same_state(session.state, step.new_state)
    in_pieces = deltamem.Session(model, tokenizer)
    in_pieces.observe(iter([told[:20], told[20:]]))
    assert_same_state(in_pieces.state, session.state)

    rows = [*[{"role": "user", "content": told}, {"role": "assistant", "content": "Noted."}] * 2]
    encoder = EpisodeEncoder(tokenizer, DataOptions(path="unused"), deltamem.DeltaMemConfig(write=strategy))
    assert len(set(encoder.encode(rows).history.segments.tolist()) - {-1}) == 4


def test_a_name_that_nothing_has_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"update_rule must be one of standard, .*not 'none'.*register_update_rule"):
        deltamem.DeltaMemConfig(update_rule="none")
    with pytest.raises(ConfigError, match=r"write must be one of token, message, sentence, not 'page'.*strategy"):
        deltamem.DeltaMemConfig(write="page")


DECLARED = """
from deltamem import Family, UpdateRule, WriteStrategy


def halves(keep, beta):
    return keep, beta, 0.5 * beta


rule = UpdateRule("halves", halves)
strategy = WriteStrategy("line", lambda text: [(0, text.index("\\n"))])
family = Family("StrangeAttention", output="wo")
"""
ENTRIES = """[deltamem.update_rules]
halves = declared:rule
[deltamem.write_strategies]
line = declared:strategy
[deltamem.families]
StrangeAttention = declared:family
"""
CHECK = """
import deltamem, sys
from deltamem.attach.families import FAMILIES
config = deltamem.DeltaMemConfig(update_rule="halves", write="line")
assert config.rule.gates(1, 2) == (1, 2, 1.0)
assert config.strategy.cut("ab\\nc") == [(0, 2)] and config.writes_segments
assert FAMILIES["StrangeAttention"].output == "wo"
"""


def test_rows_can_be_declared_by_an_installed_package(tmp_path: Path) -> None:
    (tmp_path / "declared.py").write_text(DECLARED)
    info = tmp_path / "declared-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: declared\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{CHECK}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_compiled_token_is_found_on_disk_again(tmp_path: Path) -> None:
    """One process after another finds what the first compiled; it used to compile anew, and keep that too."""
    check = (
        "from deltamem import DeltaMemConfig; from deltamem.memory import DeltaMemory; "
        "from deltamem.ops import decode; "
        "assert decode.compiles(DeltaMemory(DeltaMemConfig(), 8, {'q': 8, 'o': 8}).form)"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", check], check=True, env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)})
    assert len(list(tmp_path.rglob("*.nbc"))) == 1


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, 'pip install "deltamem[serve]"'),
        ({"url": "file:///home/me/delta%20mem", "dir_info": {}}, 'pip install "/home/me/delta mem[serve]"'),
        (
            {"url": "file:///home/me/deltamem", "dir_info": {"editable": True}},
            'pip install --editable "/home/me/deltamem[serve]"',
        ),
    ],
)
def test_a_missing_extra_is_installed_from_where_the_package_came(
    origin: dict[str, Any] | None, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No index has the package yet: what is said must work for a clone, and for an index once there is one."""
    info = tmp_path / "deltamem-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deltamem\nVersion: 1.0\n")
    if origin is not None:
        (info / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert how_to_install("serve") == command


def test_no_message_says_where_to_install_from_on_its_own() -> None:
    source = Path(deltamem.__file__).parents[1]
    alone = re.compile(r"pip install ['\"]?deltamem")
    assert not [path for path in source.rglob("*.py") if alone.search(path.read_text("utf-8"))]
