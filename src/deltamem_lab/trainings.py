"""What the embedded suite trains before it runs: the static control, and the published baselines that are trained.

Each is trained by its own command on the data of the adapter ``multi``, by fewer updates than the adapter: as many as
take a few minutes on an idle core or, for the MLP and the classifier, as their commands do.
"""

import dataclasses
from pathlib import Path

from deltamem.demo.adapters import COURSES, recipe_of
from deltamem_lab.registry import SuiteTraining

_TRAINER = ("accelerate", "train"), ("pydantic", "train"), ("yaml", "train"), ("datasets", "train")
_PEFT = ("peft", "lora")


def _recipe(folder: Path, steps: int, *, control: bool = False) -> str:
    """The recipe of the adapter ``multi`` with so many updates, as YAML; that of a baseline is in float32."""
    from deltamem.train.recipefile import recipe_yaml

    course = COURSES["multi"]
    stage = dataclasses.replace(course.stages[0], steps=steps)
    return recipe_yaml(recipe_of(course.config, stage, folder, control=control, precision="bf16" if control else "no"))


TRAININGS: tuple[SuiteTraining, ...] = (
    SuiteTraining(
        name="static",
        method="static",
        about="the static control: multi trained on strangers' memories, 400 updates",
        command=("train", "{recipe}", "output.folder={folder}", "--resume"),
        recipe=lambda folder: _recipe(folder, 400, control=True),
        done="metrics.json",
        seconds=180,
        needs=(*_TRAINER, ("matplotlib", "train")),
    ),
    SuiteTraining(
        name="lora",
        method="context2lora",
        about="the LoRA of context2lora, 250 updates",
        command=("baseline", "lora", "{recipe}", "--output", "{folder}"),
        recipe=lambda folder: _recipe(folder, 250),
        done="training.json",
        seconds=300,
        needs=(*_TRAINER, _PEFT),
    ),
    SuiteTraining(
        name="memgen",
        method="memgen",
        about="the weaver of memgen, 800 updates",
        command=("baseline", "memgen", "{recipe}", "--output", "{folder}"),
        recipe=lambda folder: _recipe(folder, 800),
        done="training.json",
        seconds=180,
        needs=(*_TRAINER, _PEFT),
    ),
    SuiteTraining(
        name="mlp",
        method="mlp_memory",
        about="the MLP of mlp_memory, 600 updates on 30,000 tokens",
        command=("baseline", "mlp-memory", "{recipe}", "--output", "{folder}"),
        recipe=lambda folder: _recipe(folder, 400),
        done="training.json",
        seconds=60,
        needs=_TRAINER,
    ),
    SuiteTraining(
        name="llmlingua2",
        method="llmlingua2",
        about="the classifier of llmlingua2, 300 updates on 3,200 histories",
        command=("baseline", "llmlingua2", "{recipe}", "--output", "{folder}"),
        recipe=lambda folder: _recipe(folder, 200),
        done="training.json",
        seconds=60,
        needs=(*_TRAINER, ("llmlingua", "llmlingua")),
    ),
)
