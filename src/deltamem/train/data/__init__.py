"""Training episodes from chat data: JSON lines or a Hub dataset, tokenised once and kept on disk."""

from typing import TYPE_CHECKING

from deltamem.lazily import lazily

if TYPE_CHECKING:
    from deltamem.train.data.batches import LengthGroupedBatches
    from deltamem.train.data.dataset import DataReport, EpisodeDataset
    from deltamem.train.data.lines import BadDataError, BadLine
    from deltamem.train.data.options import DataOptions

__all__ = ["BadDataError", "BadLine", "DataOptions", "DataReport", "EpisodeDataset", "LengthGroupedBatches"]

_HOMES = {
    "batches": "LengthGroupedBatches",
    "dataset": "DataReport EpisodeDataset",
    "lines": "BadDataError BadLine",
    "options": "DataOptions",
}
__getattr__ = lazily(__name__, _HOMES)
