"""A token classifier of one's own: a small BERT with its word pieces, trained to know telling words."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from deltamem_lab.methods.llmlingua2.labels import Asked, common_words, label, telling_spans
from deltamem_lab.methods.training import descend, shuffled

# What the package reads at a time.
_WINDOW = 512
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@dataclass(frozen=True)
class ClassifierPlan:
    """What a classifier is, and how it is trained.

    Attributes:
        pieces: the most word pieces of its vocabulary.
        common: a word that more than this share of the questions have does not count as telling.
        batch: windows of 512 pieces an update.
    """

    pieces: int = 4000
    width: int = 128
    layers: int = 2
    common: float = 0.1
    rate: float = 2e-3
    steps: int = 300
    batch: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Window:
    """The pieces of a text that are classified together.

    Attributes:
        ids: ``[T]``.
        labels: ``[T]``, 1 where a piece is telling.
    """

    ids: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Trained:
    """A classifier that is trained.

    Attributes:
        model: transformers' token classifier; its class 1 is what is kept.
        tokenizer: its tokenizer.
        losses: before each update.
        telling: the share of pieces that are telling.
    """

    model: Any
    tokenizer: Any
    losses: list[float]
    telling: float


@dataclass(frozen=True)
class _Rows:
    ids: Tensor
    mask: Tensor
    labels: Tensor

    @classmethod
    def of(cls, windows: Sequence[Window]) -> "_Rows":
        pieces = [(window.ids, torch.ones_like(window.ids), window.labels) for window in windows]
        return cls(*(pad_sequence(list(part), batch_first=True) for part in zip(*pieces, strict=True)))


def train_classifier(asked: Sequence[Asked], plan: ClassifierPlan, device: torch.device | None = None) -> Trained:
    """Trains a classifier on histories and what is asked about them.

    Raises:
        ValueError: no word of the histories is telling.
    """
    tokenizer = build_tokenizer([one.history for one in asked], plan.pieces)
    common = common_words(asked, plan.common)
    windows = [window for one in asked for window in windows_of(one, tokenizer, common)]
    telling = torch.cat([window.labels for window in windows]).float().mean().item() if windows else 0.0
    if not telling:
        raise ValueError("The questions and answers repeat no word of their histories, so there is nothing to learn.")
    model = _fresh(tokenizer, plan).to(device).train()

    def loss(rows: _Rows) -> Tensor:
        rows = _Rows(*(part.to(device) for part in (rows.ids, rows.mask, rows.labels)))
        logits = model(input_ids=rows.ids, attention_mask=rows.mask).logits
        losses = functional.cross_entropy(logits.flatten(0, 1), rows.labels.flatten(), reduction="none")
        return (losses * rows.mask.flatten()).sum() / rows.mask.sum()

    places = shuffled(len(windows), plan.seed)
    updates = ([_Rows.of([windows[place] for place in islice(places, plan.batch)])] for _ in range(plan.steps))
    losses = descend(list(model.parameters()), updates, loss, rate=plan.rate, steps=plan.steps)
    return Trained(model.eval(), tokenizer, losses, telling)


def build_tokenizer(texts: Iterable[str], pieces: int) -> Any:
    """BERT's tokenizer, in large and small letters, with word pieces that are learned from texts."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import BertTokenizer

    learned = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learned.normalizer = normalizers.BertNormalizer(lowercase=False)
    learned.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=pieces, special_tokens=_SPECIAL, show_progress=False)
    learned.train_from_iterator(texts, trainer)
    return BertTokenizer(vocab=learned.get_vocab(), do_lower_case=False)


def windows_of(asked: Asked, tokenizer: Any, common: frozenset[str]) -> Iterator[Window]:
    """A history in windows with labels."""
    read = tokenizer(
        asked.history,
        truncation=True,
        max_length=_WINDOW,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    spans = telling_spans(asked, common)
    for ids, offsets in zip(read["input_ids"], read["offset_mapping"], strict=True):
        yield Window(torch.tensor(ids), torch.tensor(label(offsets, spans)))


def _fresh(tokenizer: Any, plan: ClassifierPlan) -> Any:
    from transformers import BertConfig, BertForTokenClassification

    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=plan.width,
        num_hidden_layers=plan.layers,
        num_attention_heads=1 if plan.width % 64 else plan.width // 64,
        intermediate_size=4 * plan.width,
        max_position_embeddings=_WINDOW,
        # Texts are many and seldom seen twice.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        # By default of two classes.
        return BertForTokenClassification(config)
