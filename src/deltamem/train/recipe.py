"""What a training run is, typed: the sections of a recipe and the checks that need nothing loaded."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, Tag
from pydantic import model_validator as validator

from deltamem.config import DeltaMemConfig
from deltamem.train.data.options import DataOptions
from deltamem.train.fitoptions import FitOptions, check_fits
from deltamem.train.options import ObjectiveOptions

Metric = Literal["own_loss", "recall"]
Reporter = Literal["tensorboard", "wandb", "trackio"]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of a recipe: its keys are these and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Factory(Section):
    """Something that a function of an installed package makes.

    Attributes:
        source: ``module:function``. For a backbone it is called with ``options`` and returns a model and its
            tokenizer. For data it is called with the tokenizer and ``options`` and returns a dataset of ``Episode``
            or of ready ``EpisodeBatch``, in which case ``schedule.batch`` counts those.
        options: its keyword arguments.
    """

    source: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
    options: dict[str, Any] = Field(default_factory=dict)


class BackboneSection(Section):
    """The frozen model.

    Attributes:
        model: Hub id, folder, GGUF file, or a name of ours such as ``smollm2``.
        revision: branch, tag or commit on the Hub.
        dtype: of its weights; ``auto`` takes that of the files.
        attention: the attention kernel, as ``transformers`` names it; its choice by default.
        compile: fuse what is computed number by number in the backbone's norms and MLPs (``torch.compile``; a minute at
            the start, and a C++ compiler on a CPU).
        factory: makes the model instead.
        shape: fields of the model's ``transformers`` configuration, ``model_type`` among them, with which
            ``--dry-run`` counts without the network.
    """

    model: str | None = None
    revision: str | None = None
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    attention: str | None = None
    compile: bool = False
    factory: Factory | None = None
    shape: dict[str, Any] | None = None

    @validator(mode="after")
    def _one_source(self) -> Self:
        if (self.model is None) == (self.factory is None):
            raise ValueError("give either model (a Hub id or a folder) or factory, and not both")
        return self


def _kind(data: Any) -> str:
    made = "source" in data if isinstance(data, dict) else isinstance(data, Factory)
    return "factory" if made else "chat"


Data = Annotated[Annotated[DataOptions, Tag("chat")] | Annotated[Factory, Tag("factory")], Discriminator(_kind)]


class Optimiser(Section):
    """Fused AdamW and the precision of the arithmetic.

    Attributes:
        learning_rate: the peak.
        weight_decay: of AdamW.
        betas: of AdamW.
        clip: the largest norm of the gradient; 0 for no bound.
        precision: ``bf16`` computes under autocast; memory and adapter stay float32.
        gradient_checkpointing: recompute the layers in the backward pass: less memory, a third more time.
    """

    learning_rate: PositiveFloat = 2e-4
    weight_decay: NonNegativeFloat = 0.0
    betas: tuple[Share, Share] = (0.9, 0.999)
    clip: NonNegativeFloat = 1.0
    precision: Literal["bf16", "no"] = "no"
    gradient_checkpointing: bool = False


class Schedule(Section):
    """How long, in what portions, and how fast.

    Attributes:
        epochs: passes over the data.
        steps: updates; instead of ``epochs``.
        batch: episodes an update, over all processes; gradients are accumulated as need be.
        micro_batch: episodes a process takes at once.
        kind: how the learning rate falls after the warm-up.
        warm_up: the share of the updates in which it rises from 0.
        samples: how many episodes the data is expected to give, held-out ones included; only ``--dry-run`` uses it.
    """

    epochs: PositiveFloat | None = None
    steps: PositiveInt | None = None
    batch: PositiveInt = 32
    micro_batch: PositiveInt = 1
    kind: Literal["cosine", "linear", "constant"] = "cosine"
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.1
    samples: PositiveInt | None = None

    @validator(mode="after")
    def _one_length(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps, and not both")
        if self.batch % self.micro_batch:
            raise ValueError(f"batch ({self.batch}) must be a multiple of micro_batch ({self.micro_batch})")
        return self

    def accumulation(self, processes: int) -> int:
        """How many micro-batches each process adds up for an update.

        Raises:
            ValueError: the batch does not divide among the processes.
        """
        portion = self.micro_batch * processes
        if self.batch % portion:
            raise ValueError(
                f"schedule.batch ({self.batch}) must be a multiple of micro_batch × processes "
                f"({self.micro_batch} × {processes}); change one of them."
            )
        return self.batch // portion


class Logging(Section):
    """What is told while training.

    Attributes:
        every: updates between progress lines.
        report_to: where metrics go besides the run's folder.
        name: the run's name there.
    """

    every: PositiveInt = 10
    report_to: tuple[Reporter, ...] = ()
    name: str | None = None


class Evaluation(Section):
    """What is measured on held-out episodes.

    Attributes:
        data: the held-out episodes.
        held_out: instead, how many of the training episodes are kept for it.
        episodes: use at most so many.
        batch: episodes a process reads at once.
        every: updates between evaluations, on one half of the held-out episodes; the best checkpoint by them is what
            the run ends with, and it is reported on the other half. If not given, the last is reported on all.
        metric: what the best checkpoint is the best in. The shares of the gap put a run's checkpoints in the same order
            as ``own_loss``: all else in them is the same for all.
        patience: evaluations without a better one after which training stops; never if not given.
        control: first train the static control, the same adapter with the same seed and budget on other episodes'
            memories, and tell how much is memory. Its best checkpoint, by its own loss, and its end are found in the
            same way. It doubles the time.
        further: more held-out episodes, by name; of them the finished adapter's recall and loss are told too.
    """

    data: Data | None = None
    held_out: PositiveInt | None = None
    episodes: PositiveInt = 128
    batch: PositiveInt = 4
    every: PositiveInt | None = None
    metric: Metric = "own_loss"
    patience: PositiveInt | None = None
    control: bool = False
    further: dict[str, Data] = Field(default_factory=dict)

    @validator(mode="after")
    def _consistent(self) -> Self:
        if self.data is not None and self.held_out is not None:
            raise ValueError("give either data or held_out, and not both")
        wanted = self.every or self.control or self.patience or self.further
        if self.data is None and self.held_out is None and wanted:
            raise ValueError("there is nothing held out to measure on; give data or held_out")
        if self.patience and not self.every:
            raise ValueError("patience counts evaluations during the training; give every")
        return self


class AutoSize(Section):
    """How ``--auto-size`` looks for the smallest memory that is as good as the best.

    Every rank is tried with every number of states, in a short run of its own; alpha goes with the rank, so that
    alpha / rank stays what the recipe has.

    Attributes:
        ranks: the ranks to try.
        states: the numbers of states to try.
        metric: what sizes are compared in.
        margin: how much worse than the best a size may be, in the unit of the metric.
        share: the length of a short run, as a share of the recipe's steps or epochs.
        changes: what else is different in a short run: keys with dots, and values.
    """

    ranks: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (4, 8, 16)
    states: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 4)
    metric: Metric = "recall"
    margin: NonNegativeFloat = 0.02
    share: Annotated[float, Field(gt=0, le=1)] = 0.25
    changes: dict[str, Any] = Field(default_factory=dict)


class Output(Section):
    """What the run leaves.

    Attributes:
        folder: the adapter, its model card, plots, metrics, and the checkpoints.
        save_every: updates between checkpoints; one at the end in any case.
        keep: how many checkpoints stay, besides the best.
        push_to_hub: ``owner/name`` of the repository that gets the adapter.
        private: whether a new repository is private.
        license: the Hub's identifier of the weights' licence.
    """

    folder: str
    save_every: PositiveInt = 100
    keep: PositiveInt = 2
    push_to_hub: str | None = None
    private: bool | None = None
    license: str | None = None


class Recipe(Section):
    """A whole training run.

    Attributes:
        backbone: the frozen model.
        adapter: what is trained.
        start: an adapter's folder or Hub id to continue from, in place of fresh weights; it must have the same
            configuration.
        fit: compute the first weights from the data instead (see :mod:`deltamem.train.fit`), where answers repeat what
            was told.
        data: the training episodes.
        plain: conversations that need no memory, for ``objective.preservation``; all before a target stays visible.
        objective: what is minimised.
        optimiser: how.
        schedule: for how long.
        logging: what is told.
        evaluation: what is measured.
        auto: how ``--auto-size`` finds the adapter's rank and states; without it this has no effect.
        output: what is left.
        seed: of the initial weights, the order of the data and all draws.
    """

    backbone: BackboneSection
    adapter: DeltaMemConfig = Field(default_factory=DeltaMemConfig)
    start: str | None = None
    fit: FitOptions | None = None
    data: Data
    plain: DataOptions | None = None
    objective: ObjectiveOptions = Field(default_factory=ObjectiveOptions)
    optimiser: Optimiser = Field(default_factory=Optimiser)
    schedule: Schedule
    logging: Logging = Field(default_factory=Logging)
    evaluation: Evaluation = Field(default_factory=Evaluation)
    auto: AutoSize = Field(default_factory=AutoSize)
    output: Output
    seed: int = 42

    @validator(mode="after")
    def _consistent(self) -> Self:
        if self.objective.sparsity and self.adapter.gates == "fixed":
            raise ValueError("objective.sparsity lowers the write gates, and adapter.gates: fixed has none to train")
        if self.fit is not None:
            if self.start is not None:
                raise ValueError("give either start (an adapter to continue from) or fit (weights computed from data)")
            check_fits(self.adapter)
        read = isinstance(self.data, DataOptions)
        if read and self.objective.contrast_other and self.schedule.micro_batch < 2:
            raise ValueError(
                "objective.contrast_other needs several episodes at once; give schedule.micro_batch: 2 or more, or "
                "objective.contrast_empty instead"
            )
        if read and self.objective.preservation and self.plain is None:
            raise ValueError(
                "objective.preservation needs conversations that need no memory; give plain: {path: FILE}, or "
                "objective.preservation: 0"
            )
        return self
