"""What is particular to the compiled loop: threads, forks, the cache of compiled code, very long runs."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import pytest
import torch
from scan_cases import arguments, outputs_and_gradients, random_mask
from torch.nn.functional import normalize

import deltamem
from deltamem.ops import cpu, cpu_kernels, scan


def test_a_million_extreme_tokens_stay_finite():
    length, rank, period = 1_000_000, 8, 1000
    generator = torch.Generator().manual_seed(0)

    def tokens(x: torch.Tensor) -> torch.Tensor:
        return x.repeat(1, length // period, 1, 1).requires_grad_()

    shape = (1, period, 1, rank)
    q, k, v = (torch.randn(shape, generator=generator) for _ in range(3))
    k = k.sign()  # one of 256 corners: the same addresses are written again and again
    shut, opened = torch.zeros(shape), torch.ones(shape)
    keep, write = (torch.rand(shape, generator=generator).round() for _ in range(2))
    for gates in [(keep, keep, write), (opened, opened, opened), (shut, shut, opened)]:
        inputs = [tokens(x) for x in (normalize(q, dim=-1), normalize(k, dim=-1), 1e6 * v, *gates)]
        inputs.append(torch.zeros(1, 1, rank, rank, requires_grad=True))
        reads, final = scan(*inputs)
        grads = torch.autograd.grad((reads, final), inputs, (torch.ones_like(reads), torch.ones_like(final)))
        assert all(x.isfinite().all() for x in (reads, final, *grads))


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_the_number_of_threads_changes_nothing(threads, monkeypatch: pytest.MonkeyPatch):
    inputs, mask = arguments(3, 65, 3, 8), random_mask(3, 65)
    monkeypatch.setattr(cpu, "_SHARE", 1)
    threads(1)
    wanted = outputs_and_gradients(inputs, mask, "cpu")
    for count in (2, 4):
        threads(count)
        for x, y in zip(outputs_and_gradients(inputs, mask, "cpu"), wanted, strict=True):
            assert torch.equal(x, y)


def test_one_thread_means_one_thread(threads, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cpu, "_SHARE", 1)
    monkeypatch.setattr(cpu, "_pool", lambda: pytest.fail("a second thread was asked for"))
    threads(1)
    scan(*arguments(4, 65, 2, 8))


def test_python_threads_at_once(threads, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cpu, "_SHARE", 1)
    threads(2)
    cases = [arguments(4, 65, 2, rank, seed) for seed in range(4) for rank in (4, 8)]
    wanted = [outputs_and_gradients(case, None, "cpu") for case in cases]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            got = list(pool.map(lambda case: outputs_and_gradients(case, None, "cpu"), cases))
            for xs, ys in zip(got, wanted, strict=True):
                assert all(torch.equal(x, y) for x, y in zip(xs, ys, strict=True))


def _python(code: str, **environment: str) -> str:
    source = str(Path(deltamem.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, **environment}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_a_fork():
    _python("""
import os, torch
from deltamem.ops import cpu, cpu_kernels, scan
cpu._SHARE = 1
torch.set_num_threads(2)
inputs = [torch.rand(4, 9, 1, 4) for _ in range(6)] + [torch.rand(4, 1, 4, 4)]
wanted = scan(*inputs)[0]
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(scan(*inputs)[0], wanted) else 1)
assert os.waitpid(child, 0)[1] == 0
""")


def test_compiled_code_is_kept_for_later_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def kept() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb?")}

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    cpu_kernels.forward.__wrapped__(3)
    before = kept()
    assert before
    _python("from deltamem.ops import cpu_kernels; cpu_kernels.forward(3)", NUMBA_CACHE_DIR=str(tmp_path))
    assert kept() == before


def test_compiles_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    kernel = cpu_kernels.forward.__wrapped__(3)
    state, final = torch.ones(3, 3), torch.zeros(3, 3)
    kernel(*[0] * 6, state.data_ptr(), 0, 0, final.data_ptr(), 0, 0, 1, 0, 1)
    assert torch.equal(final, state)
