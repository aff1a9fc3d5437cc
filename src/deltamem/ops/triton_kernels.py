"""The GPU kernels, in Triton; imported at first use.

A state is a tile [R, R] in registers (padded to a power of two), tokens are [B, T, N, R] and contiguous, and everything
is computed in float32 with products and sums, not with matrix units, which want R >= 16 and round to tf32.
`row` is b * N + n, `rows` is B * N; a masked token is loaded as one of `width` 0: nothing but a keep of 1.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, no-check-untyped-defs

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["T", "span", "chunks"])  # or each new length may compile anew
def walk(
    q, k, v, keep, erase, write, mask, grad_reads,
    begin, reads, states, end,
    T, N, span, chunks,
    R: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    MASKED: tl.constexpr, ADJOINT: tl.constexpr, BASIS: tl.constexpr,
    READ: tl.constexpr, KEEP: tl.constexpr, END: tl.constexpr,
):  # fmt: skip
    """Walk a chunk with x <- keep * x - erase * (x k) k^T + a b^T.

    Forward, x is the state and a b^T = (write * v) k^T. ADJOINT, tokens are taken from the last, x is the gradient of
    the state and a b^T = grad_reads q^T.

    A chunk begins at `begin` [rows, chunks, R, R]; or, with BASIS, part p < R of [rows, chunks, R + 1, R, R] begins
    with the basis vector e_p in each row and writes nothing, so that the parts end as the linear map of the chunk, and
    part R, begun at zero, as what it adds.

    READ stores x q to `reads` [B, T, N, R]. KEEP stores x as it is on entering each BLOCK tokens to `states`
    [rows, T / BLOCK, R, R]. END stores the last x to `end`, laid out as what the chunks begin with.
    """
    row = (tl.program_id(0) // chunks).to(tl.int64)
    chunk = tl.program_id(0) % chunks
    part = tl.program_id(1)
    b, n = row // N, row % N
    i, j = tl.arange(0, TILE)[:, None], tl.arange(0, TILE)[None, :]
    at_ij = (i < R) & (j < R)
    place = (row * chunks + chunk) * (R * R) + i * R + j
    if BASIS:
        place = ((row * chunks + chunk) * (R + 1) + part) * (R * R) + i * R + j
        x = tl.where((j == part) & at_ij, 1.0, 0.0)
    else:
        x = tl.load(begin + place, mask=at_ij, other=0.0)
    blocks = (T + BLOCK - 1) // BLOCK
    first = chunk * span
    last = tl.minimum(first + span, T)
    for step in range(last - first):
        t = last - 1 - step if ADJOINT else first + step
        at = ((b * T + t) * N + n) * R
        width = R
        if MASKED:
            width = tl.where(tl.load(mask + b * T + t), R, 0)
        query = tl.load(q + at + j, mask=j < width, other=0.0).to(tl.float32)
        key = tl.load(k + at + j, mask=j < width, other=0.0).to(tl.float32)
        kept = tl.load(keep + at + i, mask=i < width, other=1.0).to(tl.float32)
        erased = tl.load(erase + at + i, mask=i < width, other=0.0).to(tl.float32)
        if KEEP:
            entering = (t % BLOCK == BLOCK - 1) | (t == T - 1) if ADJOINT else t % BLOCK == 0
            if entering:
                tl.store(states + (row * blocks + t // BLOCK) * (R * R) + i * R + j, x, mask=at_ij)
        if READ:
            read = tl.sum(x * query, 1)
            tl.store(reads + at + tl.arange(0, TILE), read, mask=tl.arange(0, TILE) < R)
        held = tl.sum(x * key, 1)[:, None]
        if ADJOINT:
            wanted = tl.load(grad_reads + at + i, mask=i < width, other=0.0).to(tl.float32)
            x = kept * x - erased * held * key + wanted * query
        else:
            written = tl.load(write + at + i, mask=i < width, other=0.0).to(tl.float32)
            value = tl.load(v + at + i, mask=i < width, other=0.0).to(tl.float32)
            new = written * value
            if BASIS:
                new = tl.where(part == R, new, 0.0)
            x = kept * x + (new - erased * held) * key
    if END:
        tl.store(end + place, x, mask=at_ij)


@triton.jit(do_not_specialize=["chunks"])
def carry(
    maps, added, begin, entering, final, chunks, added_stride,
    R: tl.constexpr, TILE: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """Carry row i of a state from chunk to chunk through the chunks' maps [rows, chunks, R + 1, R, R] of `walk`.

    From `begin` [rows, R, R] to `final` [rows, R, R]; `entering` [rows, chunks, R, R] is what each chunk begins with.
    `added` is what a chunk adds, [R, R] every `added_stride`. ADJOINT carries a gradient, from the last chunk on.
    """
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1)
    lane = tl.arange(0, TILE)
    inside = lane < R
    both = inside[:, None] & inside[None, :]
    x = tl.load(begin + row * (R * R) + i * R + lane, mask=inside, other=0.0)
    for step in range(chunks):
        chunk = row * chunks + (chunks - 1 - step if ADJOINT else step)
        tl.store(entering + chunk * (R * R) + i * R + lane, x, mask=inside)
        here = chunk * ((R + 1) * R * R) + lane[:, None] * (R * R) + i * R + lane[None, :]
        map_i = tl.load(maps + here, mask=both, other=0.0)
        more = tl.load(added + chunk * added_stride + i * R + lane, mask=inside, other=0.0)
        x = (tl.sum(map_i * x[None, :], 1) if ADJOINT else tl.sum(map_i * x[:, None], 0)) + more
    tl.store(final + row * (R * R) + i * R + lane, x, mask=inside)


@triton.jit(do_not_specialize=["T", "blocks"])
def gradients(
    q, k, v, keep, erase, write, mask, grad_reads, states, grad_states,
    grad_q, grad_k, grad_v, grad_keep, grad_erase, grad_write,
    T, N, blocks,
    R: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The gradients of BLOCK tokens, from the state they begin with and the gradient of the state they end with.

    `states` and `grad_states` are [rows, T / BLOCK, R, R], as `walk` keeps them. The state before each token is walked
    to anew from the block's first: 3.5 more steps a token at BLOCK = 8, instead of memory for a state a token.
    """
    row = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    b, n = row // N, row % N
    lane = tl.arange(0, TILE)
    i, j = lane[:, None], lane[None, :]
    at_i, at_j, at_ij = i < R, j < R, (i < R) & (j < R)
    place = (row * blocks + block) * (R * R) + i * R + j
    begin = tl.load(states + place, mask=at_ij, other=0.0)
    to_state = tl.load(grad_states + place, mask=at_ij, other=0.0)
    first = block * BLOCK
    count = tl.minimum(BLOCK, T - first)
    for step in range(count):
        t = first + count - 1 - step
        x = begin
        for u in range(first, t):
            at = ((b * T + u) * N + n) * R
            width = R
            if MASKED:
                width = tl.where(tl.load(mask + b * T + u), R, 0)
            key = tl.load(k + at + j, mask=j < width, other=0.0).to(tl.float32)
            kept = tl.load(keep + at + i, mask=i < width, other=1.0).to(tl.float32)
            erased = tl.load(erase + at + i, mask=i < width, other=0.0).to(tl.float32)
            written = tl.load(write + at + i, mask=i < width, other=0.0).to(tl.float32)
            value = tl.load(v + at + i, mask=i < width, other=0.0).to(tl.float32)
            held = tl.sum(x * key, 1)[:, None]
            x = kept * x + (written * value - erased * held) * key

        at = ((b * T + t) * N + n) * R
        width = R
        if MASKED:
            width = tl.where(tl.load(mask + b * T + t), R, 0)
        query = tl.load(q + at + j, mask=j < width, other=0.0).to(tl.float32)
        key = tl.load(k + at + j, mask=j < width, other=0.0).to(tl.float32)
        kept = tl.load(keep + at + i, mask=i < width, other=1.0).to(tl.float32)
        erased = tl.load(erase + at + i, mask=i < width, other=0.0).to(tl.float32)
        written = tl.load(write + at + i, mask=i < width, other=0.0).to(tl.float32)
        value = tl.load(v + at + i, mask=i < width, other=0.0).to(tl.float32)
        wanted = tl.load(grad_reads + at + i, mask=i < width, other=0.0).to(tl.float32)

        held = tl.sum(x * key, 1)[:, None]
        to_new = tl.sum(to_state * key, 1)[:, None]
        to_keep = tl.sum(to_state * x, 1)[:, None]
        to_held = -erased * to_new
        to_key = tl.sum(to_state * (written * value - erased * held) + x * to_held, 0)[None, :]
        to_query = tl.sum(x * wanted, 0)[None, :]
        # A masked token has zeros for q, k, v, erase and write, so of its gradients only that of keep is not zero yet.
        tl.store(grad_q + at + j, to_query, mask=at_j)
        tl.store(grad_k + at + j, to_key, mask=at_j)
        tl.store(grad_v + at + i, to_new * written, mask=at_i)
        tl.store(grad_keep + at + i, tl.where(i < width, to_keep, 0.0), mask=at_i)
        tl.store(grad_erase + at + i, -to_new * held, mask=at_i)
        tl.store(grad_write + at + i, to_new * value, mask=at_i)
        to_state = kept * to_state + to_held * key + wanted * query
