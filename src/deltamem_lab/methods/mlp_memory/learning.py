"""Teaching the MLP: half the distribution of the neighbours, half the token that did follow."""

from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional

from deltamem_lab.methods.mlp_memory.datastore import Datastore, Targets
from deltamem_lab.methods.mlp_memory.network import MlpMemory
from deltamem_lab.methods.training import descend, shuffled

_MEASURED = 512


@dataclass(frozen=True)
class MlpPlan:
    """How an MLP is trained.

    Attributes:
        rate: the highest learning rate of AdamW, reached after a tenth of the updates; a cosine leads down from it.
        batch: keys an update.
        imitation: the weight of the neighbours' distribution in the loss; the rest is that of the token that followed.
    """

    rate: float = 1e-3
    steps: int = 600
    batch: int = 256
    imitation: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Loss:
    """The parts of the loss, in nats a token.

    Attributes:
        imitation: KL(neighbours ‖ MLP).
        following: the cross-entropy of the token that followed.
    """

    imitation: Tensor
    following: Tensor

    def total(self, weight: float) -> Tensor:
        """Both, the first with this weight, the second with the rest."""
        return weight * self.imitation + (1 - weight) * self.following


def memory_loss(logits: Tensor, targets: Tensor, following: Tensor) -> Loss:
    """The mean loss of predictions.

    Args:
        logits: ``[B, V]``, of the MLP.
        targets: ``[B, V]``, the neighbours' distributions.
        following: ``[B]``, the tokens that followed.
    """
    logs = torch.log_softmax(logits, dim=-1)
    return Loss(functional.kl_div(logs, targets, reduction="batchmean"), functional.nll_loss(logs, following))


def fit_memory(memory: MlpMemory, store: Datastore, targets: Targets, plan: MlpPlan) -> list[float]:
    """Trains an MLP on a datastore, all its keys in a new order each time all have come.

    Returns:
        the loss before each update.
    """

    def loss(rows: Tensor) -> Tensor:
        return _loss(memory, store, targets, rows).total(plan.imitation)

    places, device = shuffled(len(store), plan.seed), store.values.device
    updates = ([torch.tensor(list(islice(places, plan.batch)), device=device)] for _ in range(plan.steps))
    return descend(list(memory.parameters()), updates, loss, rate=plan.rate, steps=plan.steps)


@torch.no_grad()
def measure_memory(memory: MlpMemory, store: Datastore, targets: Targets) -> Loss:
    """The mean loss over a whole datastore."""
    parts = torch.arange(len(store), device=store.values.device).split(_MEASURED)
    found = [(len(rows), _loss(memory, store, targets, rows)) for rows in parts]
    sums = [sum(count * getattr(one, part) for count, one in found) for part in ("imitation", "following")]
    return Loss(*(torch.as_tensor(total) / len(store) for total in sums))


def _loss(memory: MlpMemory, store: Datastore, targets: Targets, rows: Tensor) -> Loss:
    wanted = targets.dense(rows, memory.shape.vocabulary)
    return memory_loss(memory(store.keys[rows]), wanted, store.values[rows])
