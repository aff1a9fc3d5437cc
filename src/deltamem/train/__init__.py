"""Training adapters: write a history into the memory, drop the text, and learn from the answers."""

from deltamem.train.episodes import Episode, EpisodeBatch, Text, TextBatch, collate, evenly
from deltamem.train.long import Writing
from deltamem.train.objective import EpisodeObjective, ObjectiveOptions, ObjectiveResult, episode_loss
from deltamem.train.passes import read, write

__all__ = [
    "Episode",
    "EpisodeBatch",
    "EpisodeObjective",
    "ObjectiveOptions",
    "ObjectiveResult",
    "Text",
    "TextBatch",
    "Writing",
    "collate",
    "episode_loss",
    "evenly",
    "read",
    "write",
]
