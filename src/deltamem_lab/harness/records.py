"""What lm-evaluation-harness answered as records, so that it is reported like everything else."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from deltamem.formats.hub import adapter_fingerprint
from deltamem_lab.backbone import Backbone
from deltamem_lab.interface import Cost
from deltamem_lab.methods.bare import backbone_fingerprint
from deltamem_lab.records import (
    HARNESS,
    Record,
    Writer,
    check_same_run,
    clip,
    digest,
    package_versions,
    shard_file,
)
from deltamem_lab.tasks.data import digest as file_digest


def begin(
    output: Path,
    tasks: Sequence[str],
    methods: Mapping[str, str | None],
    backbone: Backbone,
    data: Mapping[str, Path],
    limit: int | None,
) -> None:
    """Keeps what the run is, and refuses to mix another into its folder.

    Raises:
        ValueError: the folder holds another run.
    """
    check_same_run(
        output,
        {
            "model": backbone.name,
            "revision": backbone.revision,
            "weights": backbone_fingerprint(backbone.model),
            "template": str(backbone.template),
            "limit": limit,
            "methods": {method: _fingerprint(backbone, adapter) for method, adapter in methods.items()},
            "data": {task: file_digest(data[task]) if task in data else "the harness's" for task in tasks},
        },
    )


def keep(output: Path, task: str, method: str, adapter: str | None, backbone: Backbone, found: dict[str, Any]) -> int:
    """Writes a record a sample of the harness's results; how many there are.

    Tasks that are groups have samples by their parts, whose names are the categories. Costs are not known.
    """
    records = list(_records(task, method, adapter, backbone, found))
    with closing(Writer(shard_file(output, 0, 1))) as writer:
        writer.add(records)
    return len(records)


def _records(
    task: str, method: str, adapter: str | None, backbone: Backbone, found: dict[str, Any]
) -> Iterator[Record]:
    fingerprint, versions = _fingerprint(backbone, adapter), package_versions()
    for part, samples in found["samples"].items():
        for sample in _once(samples):
            scores = {name: float(sample[name]) for name in sample["metrics"] if _is_rate(sample[name])}
            if not scores:
                raise ValueError(
                    f"{part} of lm-evaluation-harness has no score between 0 and 1 for each sample, so there is "
                    "nothing to keep."
                )
            prompt = str(sample["arguments"][0][0])
            yield Record(
                task=task,
                protocol=HARNESS,
                item=f"{part}-{sample['doc_id']}",
                question="0",
                method=method,
                seed=0,
                category=part if len(found["samples"]) > 1 else "",
                source=part,
                subsets=(),
                ask=clip(prompt),
                gold=(str(sample["target"]),),
                output=str(sample["filtered_resps"][0]),
                scores=scores,
                main_metric=next(iter(scores)),
                averages=("question",),
                prompt=clip(prompt),
                prompt_hash=digest(prompt),
                cost=Cost(),
                data_revision=f"lm-evaluation-harness, {part} version {found['versions'].get(part, '')}",
                model=backbone.name,
                model_revision=backbone.revision,
                adapter=fingerprint,
                versions=versions,
            )


def _once(samples: Sequence[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Every question once: where several filters read an answer, the first of them."""
    first: dict[Any, dict[str, Any]] = {}
    for sample in samples:
        first.setdefault(sample["doc_id"], sample)
    return first.values()


def _is_rate(value: Any) -> bool:
    return isinstance(value, bool | int | float) and 0 <= value <= 1


def _fingerprint(backbone: Backbone, adapter: str | None) -> str:
    return adapter_fingerprint(backbone.model, adapter) if adapter else ""
