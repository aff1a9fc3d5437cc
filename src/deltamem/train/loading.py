"""What a recipe names, loaded: the backbone with its adapter, the training episodes and the held-out ones."""

import importlib.util
import inspect
import random
from collections.abc import Callable, Sequence, Sized
from typing import Any

from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, set_seed

from deltamem.attach import attach
from deltamem.extensions import load_object
from deltamem.formats.hub import load_adapter
from deltamem.models.loading import load_tokenizer, load_weights
from deltamem.train.data.dataset import EpisodeDataset
from deltamem.train.data.lines import find_files
from deltamem.train.data.options import DataOptions
from deltamem.train.episodes import EpisodeBatch
from deltamem.train.plain import WithPlain
from deltamem.train.recipe import BackboneSection, Factory, Recipe
from deltamem.train.strangers import texts_of


class Part(Dataset[Any]):
    """Some of a dataset's items, in a given order."""

    def __init__(self, dataset: Dataset[Any], places: Sequence[int]) -> None:
        self.dataset = dataset
        self.places = places
        lengths, texts = getattr(dataset, "lengths", None), getattr(dataset, "texts", None)
        self.digest = getattr(dataset, "digest", None)
        self.lengths = None if lengths is None else [lengths[place] for place in places]
        self.texts = None if texts is None else [texts[place] for place in places]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.places[index]]


def load_backbone(backbone: BackboneSection) -> tuple[PreTrainedModel, Any]:
    """The bare backbone and its tokenizer.

    Raises:
        ValueError: the factory is not there.
        OSError: there is no such model.
    """
    if backbone.factory is not None:
        model, tokenizer = _function(backbone.factory)(**backbone.factory.options)
        return _without_dropout(model), tokenizer
    name = str(backbone.model)
    tokenizer = load_tokenizer(name, revision=backbone.revision)
    model = load_weights(name, revision=backbone.revision, dtype=backbone.dtype, attention=backbone.attention)
    if backbone.compile:
        _compile_around_attention(model)
    return _without_dropout(model), tokenizer


def _compile_around_attention(model: PreTrainedModel) -> None:
    """Compiles the norms and the MLPs, for any batch and length; attention is steered and stays as it is."""
    for module in model.modules():
        if type(module).__name__.endswith(("Norm", "MLP")):
            module.compile(dynamic=True)


def _without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """A frozen backbone is to be the one that is used; ``eval`` alone does not last, as training turns it off.

    That in turn is needed: transformers recomputes activations in training mode alone.
    """
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, float) and ("drop" in name or (name == "p" and isinstance(module, nn.Dropout))):
                setattr(module, name, 0.0)
    return model


def add_trained_adapter(model: PreTrainedModel, recipe: Recipe) -> None:
    """Puts the adapter that is to be trained on a bare backbone: fresh, or the one to continue from.

    Raises:
        ValueError: the adapter to continue from has another configuration than the recipe's.
    """
    set_seed(recipe.seed)
    if recipe.start is None:
        attach(model, recipe.adapter)
        return
    found = load_adapter(model, recipe.start).config
    if found != recipe.adapter:
        raise ValueError(
            f"The adapter {recipe.start} is {found}, but the recipe's adapter section says {recipe.adapter}; "
            "make them agree."
        )


def _function(factory: Factory, *given: Any) -> Callable[..., Any]:
    """The function that a recipe names, which takes ``given`` and the options that the recipe has for it.

    Raises:
        ValueError: it is not there, or does not take them.
    """
    function = load_object(factory.source)
    try:
        inspect.signature(function).bind(*given, **factory.options)
    except TypeError as error:
        raise ValueError(f"The options of {factory.source}: {error}.") from None
    return function  # type: ignore[no-any-return]


def check_sources(recipe: Recipe) -> None:
    """Asks for the files, functions and packages that a recipe names, so that what is missing is known at once.

    Raises:
        BadDataError: a file is not there.
        ValueError: a function is not there, or does not take the options given for it.
        ImportError: a package that the metrics should go to is not installed.
    """
    plain = recipe.plain if recipe.objective.preservation else None
    for data in (recipe.data, plain, recipe.evaluation.data, *recipe.evaluation.further.values()):
        if isinstance(data, Factory):
            _function(data, "tokenizer")
        elif data is not None and data.path is not None:
            find_files(data.path)
    if recipe.backbone.factory is not None:
        _function(recipe.backbone.factory)
    for name in recipe.logging.report_to:
        if importlib.util.find_spec(name) is None:
            raise ImportError(f"logging.report_to names {name}, which is not installed: pip install {name}")


def load_episodes(data: DataOptions | Factory, tokenizer: Any, recipe: Recipe, *, progress: bool) -> Dataset[Any]:
    """A dataset of episodes, or of ready batches of them.

    Raises:
        ValueError: the source is bad; the message says what.
    """
    if isinstance(data, Factory):
        made = _function(data, tokenizer)(tokenizer, **data.options)
        if not isinstance(made, Sized) or not len(made):
            raise ValueError(f"{data.source} gave no dataset with a length above 0.")
        return made  # type: ignore[return-value]
    return EpisodeDataset(data, tokenizer, recipe.adapter, progress=progress)


def load_data(recipe: Recipe, tokenizer: Any, *, progress: bool) -> tuple[Dataset[Any], Dataset[Any] | None]:
    """The training episodes and the held-out ones, if the recipe has any.

    Raises:
        ValueError: a source is bad, has too few episodes to hold some out, or lacks what the objective needs.
    """
    training = load_episodes(recipe.data, tokenizer, recipe, progress=progress)
    first = training[0]
    rows = first.rows if isinstance(first, EpisodeBatch) else recipe.schedule.micro_batch
    if recipe.objective.contrast_other and rows < 2:
        raise ValueError("objective.contrast_other needs several episodes in a batch, and the data's have one.")
    wanted = recipe.evaluation
    held: Dataset[Any] | None = None
    if wanted.data is not None:
        held = load_episodes(wanted.data, tokenizer, recipe, progress=progress)
    elif wanted.held_out is not None:
        training, held = split_off(training, wanted.held_out, recipe.seed)
    count = len(held) if isinstance(held, Sized) else 0
    if held is not None and count > wanted.episodes and not isinstance(held[0], EpisodeBatch):
        held = Part(held, sorted(random.Random(f"held out {recipe.seed}").sample(range(count), wanted.episodes)))
    return _with_plain(training, tokenizer, recipe, progress=progress), held


def _with_plain(training: Dataset[Any], tokenizer: Any, recipe: Recipe, *, progress: bool) -> Dataset[Any]:
    """The training episodes with the prompts that the preservation term needs, if it is asked for."""
    if not recipe.objective.preservation:
        return training
    if recipe.plain is not None:
        prompts = EpisodeDataset(recipe.plain, tokenizer, recipe.adapter, progress=progress, plain=True)
        return WithPlain(training, prompts, recipe.seed)
    if not training[0].plain:
        raise ValueError(
            "objective.preservation needs prompts that need no memory, and the data has none; give the recipe "
            "plain: {path: FILE}, or the episodes their own."
        )
    return training


def halves(held: Dataset[Any], seed: int) -> tuple[Dataset[Any], Dataset[Any]]:
    """Held-out items in two halves, with episodes about one text in the same half.

    Raises:
        ValueError: there are too few of different texts.
    """
    assert isinstance(held, Sized)
    try:
        first, second = split_off(held, max(1, len(held) // 2), seed)
        if not all(isinstance(part[0], EpisodeBatch) or len(set(texts_of(part))) > 1 for part in (first, second)):
            raise ValueError
    except ValueError:
        raise ValueError(
            "evaluation.every chooses the best checkpoint on one half of the held-out episodes and reports it on the "
            f"other; these {len(held)} cannot be halved so that each half has several histories. Hold out more, or "
            "leave evaluation.every out."
        ) from None
    return first, second


def split_off(dataset: Dataset[Any], count: int, seed: int) -> tuple[Part, Part]:
    """The dataset without at least ``count`` items, and those.

    Episodes about one text stay together, so that no held-out history has been trained on.

    Raises:
        ValueError: nothing would be left to train on.
    """
    assert isinstance(dataset, Sized)
    places = list(range(len(dataset)))
    random.Random(f"split {seed}").shuffle(places)
    texts = texts_of(dataset)
    groups: dict[int, list[int]] = {}
    for place in places:
        groups.setdefault(texts[place], []).append(place)
    held: list[int] = []
    for group in groups.values():
        if len(held) >= count:
            break
        held += group
    kept = sorted(set(places).difference(held))
    if not kept or len(held) < count:
        raise ValueError(f"Of {len(places)} training episodes {count} cannot be held out; hold out fewer.")
    return Part(dataset, kept), Part(dataset, sorted(held))


def pad_id(tokenizer: Any) -> int:
    """The token that fills up rows; it is masked everywhere, so any will do where the tokenizer has none."""
    return int(tokenizer.pad_token_id or 0)
