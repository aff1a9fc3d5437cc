"""Data parallel training: two processes get the gradients of one."""

import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import deltamem
from deltamem import Step
from tiny import adapted, tokens

WORLD = 2


def gradients(model: nn.Module, inner: nn.Module, rows: slice) -> dict[str, Tensor]:
    support, query = tokens(4, 12)[rows], tokens(4, 6, seed=5)[rows]
    step = Step(deltamem.new_state(inner, len(support)))
    model(support, memory=step, use_cache=False)
    loss = model(query, labels=query, memory=Step(step.new_state, write=False), use_cache=False).loss
    loss.backward()
    return {name: p.grad for name, p in inner.named_parameters() if p.grad is not None}


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD, timeout=timedelta(minutes=10)
    )
    model = adapted()
    found = gradients(DistributedDataParallel(model), model, slice(2 * rank, 2 * rank + 2))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_get_the_gradients_of_one(tmp_path: Path) -> None:
    mp.spawn(worker, args=(str(tmp_path),), nprocs=WORLD)
    model = adapted()
    wanted = gradients(model, model, slice(0, 4))
    for rank in range(WORLD):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == wanted.keys()
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
