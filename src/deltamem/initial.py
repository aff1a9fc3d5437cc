"""How a fresh adapter starts: its memories and their correction heads."""

import itertools

import torch
from torch import Tensor, nn

from deltamem.backbones import AttentionSite, projection_sizes, projection_weight
from deltamem.config import DeltaMemConfig, Head
from deltamem.memory import DeltaMemory


def fresh_memory(config: DeltaMemConfig, site: AttentionSite) -> DeltaMemory:
    """The untrained memory of one attention layer, on its device.

    Raises:
        ValueError: the initialisation needs a weight that the layer does not give.
    """
    hidden_size = projection_sizes(site)["o"]
    anchor = next(itertools.chain(site.module.parameters(), site.module.buffers()))
    with torch.device(anchor.device):
        memory = DeltaMemory(config, hidden_size, projection_sizes(site))
    if anchor.is_meta or config.init == "zero":
        return memory
    with torch.no_grad():
        for part, weight in memory.named_parts().items():
            if part.startswith("delta_"):
                _init_head(weight, config, site, part.removeprefix("delta_"))  # type: ignore[arg-type]
    return memory


def _init_head(weight: Tensor, config: DeltaMemConfig, site: AttentionSite, head: Head) -> None:
    if config.init == "random":
        nn.init.kaiming_uniform_(weight, a=5**0.5).mul_(config.init_gain)
        return
    own = projection_weight(site, head)
    columns = min(config.rank, own.shape[1])
    if config.init == "base_slice_fixed":
        columns = min(columns, config.init_columns)
    unit = nn.functional.normalize(own[:, :columns], dim=0)
    weight[:, :columns] = unit * config.init_gain
