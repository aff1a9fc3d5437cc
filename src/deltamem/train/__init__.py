"""Training adapters: write a history into the memory, drop the text, and learn from the answers."""

from deltamem.train.episodes import Episode, EpisodeBatch, Text, TextBatch, collate, evenly
from deltamem.train.objective import EpisodeLoss, episode_loss, read, write
from deltamem.train.trainer import Trainer, TrainingPlan

__all__ = [
    "Episode",
    "EpisodeBatch",
    "EpisodeLoss",
    "Text",
    "TextBatch",
    "Trainer",
    "TrainingPlan",
    "collate",
    "episode_loss",
    "evenly",
    "read",
    "write",
]
