"""The scan: reads and gated delta-rule writes of a small associative memory (arXiv 2605.12357).

`reference` is the definition; `cpu`, `chunked` and `triton` are the same numbers, faster; `decode` is
one token with what surrounds its scan, compiled from the same formulas. Letters: B batch rows, T tokens, N states,
R rank.
"""

from torch import Tensor

from . import chunked, cpu, operator, reference
from .backends import BACKENDS, backend_for, backend_reason, choose, unwatched
from .inputs import ScanInputs

__all__ = ["BACKENDS", "backend_for", "backend_reason", "scan"]


def scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor,
    erase: Tensor,
    write: Tensor,
    state: Tensor,
    mask: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Read a memory before each token and write the token into it (arXiv 2605.12357; docs/mechanism.md).

        reads_t = S_{t-1} q_t
        S_t = keep_t * S_{t-1} - erase_t * (S_{t-1} k_t) k_t^T + write_t * v_t k_t^T      (gates scale rows of S)

    Args:
        q: address to read, [B, T, N, R]; T may be 0.
        k: address to write, [B, T, N, R].
        v: value to write, [B, T, N, R].
        keep: how much of each row stays, [B, T, N, R]; a gate a state is one expanded over R.
        erase: how much of what k finds goes, [B, T, N, R].
        write: how much of v is written, [B, T, N, R].
        state: the memory before the first token, [B, N, R, R].
        mask: bool [B, T], True for real tokens; a masked token reads zeros and leaves the state as it was.
            None: all tokens are real.
        backend: one of BACKENDS; None takes `backend_for(q.device)`, or "chunked" where that is "cpu" and R above 128.

    Returns:
        The reads [B, T, N, R] and the state after the last token [B, N, R, R].

    Inputs of any floating dtype and any strides; computed and returned in float32 (`reference` and `chunked` compute in
    float64 when the state is float64). Differentiable in all but the mask, from both results; no backend keeps a state
    a token. The state stays bounded while 0 <= keep <= 1 and |keep - erase |k|^2| <= 1, as normalised keys ensure.

    Raises:
        ValueError: a wrong shape, dtype, device or backend; says which argument and what was wanted.
    """
    inputs = ScanInputs(q, k, v, keep, erase, write, state, mask)
    inputs.check()
    backend = choose(backend, q.device, q.shape[-1])
    if backend == "reference":
        return reference.scan(inputs)
    if backend == "chunked":
        return chunked.scan(inputs)
    if backend == "cpu" and unwatched(q):
        return cpu.forward(inputs)
    reads, final = operator.scan(*inputs, backend)
    return reads, final
