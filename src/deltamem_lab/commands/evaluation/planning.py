"""``deltamem eval --dry-run``: what would be trained and run, without doing it."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deltamem_lab.backbone import Backbone
    from deltamem_lab.commands.evaluation.preparing import Preparation
    from deltamem_lab.methods import MethodOptions
    from deltamem_lab.registry import Suite
    from deltamem_lab.runner import Estimate, Job


def make_plan(
    jobs: Sequence["Job"],
    missing: Mapping[str, str],
    suite: "Suite",
    seeds: int,
    limit: int | None,
    methods: Sequence[str],
    backbone: "Backbone",
    options: "MethodOptions",
) -> list["Estimate"]:
    """What would run, in the suite's order; of data that is not here, by its published size."""
    from deltamem_lab.registry import TASKS, protocol_of
    from deltamem_lab.runner import estimate, estimate_published

    rows: list[Estimate] = []
    for one in suite.tasks:
        rows += estimate([job for job in jobs if job.task.name == one.task], methods, backbone, options)
        size = TASKS[one.task].size
        if one.task in missing and size:
            rows += [*estimate_published(one.task, protocol_of(one), size, limit, methods, backbone, options)] * seeds
    return rows


def print_plan(
    rows: Sequence["Estimate"],
    missing: Mapping[str, str],
    preparation: "Preparation",
    absent: Mapping[str, str],
    as_json: bool,
) -> None:
    """Prints trainings, items, questions and tokens, what is left out and why, and which data is not here."""
    from dataclasses import asdict

    from deltamem_lab.report.terminal import print_estimates

    if as_json:
        trained = [{"name": one.name, "method": one.method, "seconds": one.seconds} for one in preparation.left]
        plan = {"runs": [asdict(row) for row in rows], "missing": dict(missing)}
        print(json.dumps({**plan, "train": trained, "absent": dict(absent)}, indent=2))
        return
    print_estimates(rows)
    for said in preparation.told():
        print(said)
    for name, reason in absent.items():
        print(f"{name}: left out: {reason}")
    for name, reason in missing.items():
        print(f"{name}: its data is not here: {reason}")
