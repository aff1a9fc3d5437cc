"""``deltamem eval --dry-run``: what would be trained and run, without doing it."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deltamem.cli.evaluation.preparing import Preparation
    from deltamem.eval.backbone import Backbone
    from deltamem.eval.methods import MethodOptions
    from deltamem.eval.registry import Suite
    from deltamem.eval.runner import Job


def print_plan(
    jobs: Sequence["Job"],
    missing: Mapping[str, str],
    suite: "Suite",
    methods: Sequence[str],
    backbone: "Backbone",
    options: "MethodOptions",
    preparation: "Preparation",
    absent: Mapping[str, str],
    as_json: bool,
) -> None:
    """Prints trainings, items, questions and tokens; of data that is not here, its published size."""
    from dataclasses import asdict

    from deltamem.eval.registry import TASKS
    from deltamem.eval.report.terminal import print_estimates
    from deltamem.eval.runner import estimate

    rows = list(estimate(jobs, methods, backbone, options))
    if as_json:
        harness = [{"task": name, "prompts": prompts} for name, prompts in suite.harness]
        trained = [{"name": one.name, "method": one.method, "seconds": one.seconds} for one in preparation.left]
        plan = {"runs": [asdict(row) for row in rows], "missing": dict(missing), "harness": harness}
        print(json.dumps({**plan, "train": trained, "absent": dict(absent)}, indent=2))
        return
    print_estimates(rows)
    for said in preparation.told():
        print(said)
    for name, reason in absent.items():
        print(f"{name}: left out: {reason}")
    for name, reason in missing.items():
        size = TASKS[name].size
        print(f"{name}: {size or 'its size is not known'}, by each of {len(methods)} methods; not counted: {reason}")
    for name, prompts in suite.harness:
        print(f"{name}: {prompts:,} prompts by lm-evaluation-harness: deltamem eval --harness {name}")
