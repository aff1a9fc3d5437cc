"""The GPU kernels: on a GPU where there is one; else in Triton's interpreter, and compiled for an absent GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import deltamem
from deltamem.ops import triton as gpu

pytest.importorskip("triton")


def test_which_sequences_are_cut_into_chunks():
    assert gpu.in_chunks(rows=1, length=8192, rank=8)
    assert gpu.in_chunks(rows=64, length=2048, rank=8)
    assert gpu.in_chunks(rows=4, length=2048, rank=32)
    assert not gpu.in_chunks(rows=1, length=1, rank=8)
    assert not gpu.in_chunks(rows=1024, length=8192, rank=8)


if torch.cuda.is_available():
    from triton_cases import *  # noqa: F403
else:

    def test_in_the_interpreter():
        """In a process of its own: the variable must be set before triton is imported, and changes it for good."""
        here = Path(__file__).parent
        source = str(Path(deltamem.__file__).parents[1])
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(here / "triton_cases.py")],
            env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": source},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stdout + run.stderr

    @pytest.mark.parametrize(("arch", "rank", "tile", "warps"), [(80, 5, 8, 1), (90, 32, 32, 4)])
    def test_compiles_for_a_gpu(arch: int, rank: int, tile: int, warps: int, tmp_path: Path, monkeypatch):
        if os.environ.get("TRITON_INTERPRET") == "1":
            pytest.skip("the interpreter is on")
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        from deltamem.ops import triton_kernels

        counts = {"T", "N", "span", "chunks", "blocks", "added_stride"}
        options = {"num_warps": warps, "enable_fp_fusion": True}
        constants = {"R": rank, "TILE": tile, "BLOCK": 8, "MASKED": True, "READ": True, "KEEP": True, "END": True}
        for kernel in (triton_kernels.walk, triton_kernels.carry, triton_kernels.gradients):
            for adjoint, basis in [(False, False), (False, True), (True, False)]:
                given = {**constants, "ADJOINT": adjoint, "BASIS": basis}
                types = {name: "i32" if name in counts else "*fp32" for name in kernel.arg_names}
                types |= {name: "constexpr" for name in given if name in types}
                types |= {name: "*i1" for name in types if name == "mask"}
                source = ASTSource(kernel, types, {name: x for name, x in given.items() if name in types})
                compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
                assert "tf32" not in compiled.asm["ptx"]
