"""Which methods a run has, and what it would train and do: ``deltamem eval --dry-run``."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deltamem_lab.backbone import Backbone
    from deltamem_lab.commands.evaluation.preparing import Preparation
    from deltamem_lab.dryrun import Estimate
    from deltamem_lab.interface import PublishedSize
    from deltamem_lab.methods import MethodOptions
    from deltamem_lab.runner import Job
    from deltamem_lab.suites import Suite


def choose_methods(
    suite: "Suite",
    named: Sequence[str],
    backbone: "Backbone",
    options: "MethodOptions",
    untrained: Collection[str] = (),
) -> tuple[list[str], dict[str, str]]:
    """The methods of a run, controls last, and those of its suite that cannot run here, each with the reason.

    Those that the user has named run, and no others. Of the ``untrained`` ones of the suite it is said elsewhere
    whether they will be trained.
    """
    from deltamem_lab.methods import default_methods, is_control, lacking

    if named or suite.methods:
        return list(dict.fromkeys(named or suite.methods)), {}
    wanted = dict.fromkeys((*default_methods(backbone, options), *suite.more))
    reasons = {name: lacking(name, backbone, options) for name in wanted}
    absent = {name: reason for name, reason in reasons.items() if reason and name not in untrained}
    return sorted((name for name, reason in reasons.items() if not reason), key=is_control), absent


def make_plan(
    jobs: Sequence["Job"],
    missing: Mapping[str, str],
    suite: "Suite",
    seeds: int,
    limit: int | None,
    questions: int | None,
    methods: Sequence[str],
    backbone: "Backbone",
    options: "MethodOptions",
) -> tuple[list["Estimate"], list[str]]:
    """What would run, in the suite's order, and which questions have no room; by its published size without data."""
    from deltamem_lab.dryrun import estimate, estimate_published
    from deltamem_lab.tasks.registry import find_task, pick_protocol

    rows: list[Estimate] = []
    too_long: list[str] = []
    for one in suite.tasks:
        task = find_task(one.task)
        protocol = pick_protocol(task, one.protocol)
        own = [job for job in jobs if (job.task.name, job.protocol) == (task.name, protocol)]
        rows += estimate(own, methods, backbone, options, too_long.append)
        size: PublishedSize | None = getattr(task, "size", None)
        if one.task in missing and size:
            about = estimate_published(task.name, protocol, size, limit, methods, backbone, options, questions)
            rows += [*about] * seeds
    return rows, list(dict.fromkeys(too_long))


def print_plan(
    rows: Sequence["Estimate"],
    missing: Mapping[str, str],
    preparation: "Preparation",
    absent: Mapping[str, str],
    too_long: Sequence[str],
    as_json: bool,
) -> None:
    """Prints trainings, items, questions and tokens, what is left out and why, and what is missing or too long."""
    from dataclasses import asdict

    from deltamem_lab.report.terminal import print_estimates

    if as_json:
        trained = [{"name": one.name, "method": one.method, "seconds": one.seconds} for one in preparation.left]
        plan = {"runs": [asdict(row) for row in rows], "missing": dict(missing), "too_long": list(too_long)}
        print(json.dumps({**plan, "train": trained, "absent": dict(absent)}, indent=2))
        return
    print_estimates(rows)
    for said in preparation.told():
        print(said)
    for name, reason in absent.items():
        print(f"{name}: left out: {reason}")
    for name, reason in missing.items():
        print(f"{name}: its data is not here: {reason}")
    for said in too_long:
        print(f"No room; a run would stop there: {said}")
