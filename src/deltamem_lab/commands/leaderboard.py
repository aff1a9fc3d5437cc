"""``deltamem leaderboard``: the page that ranks methods, from runs or from the small files that are kept of them."""

from pathlib import Path
from typing import Annotated

import typer


def leaderboard(
    sources: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of deltamem eval, or files that --keep wrote.")
    ],
    output: Annotated[Path, typer.Option(help="The Markdown page to write.")] = Path("leaderboard.md"),
    keep: Annotated[Path | None, typer.Option(help="Folder that keeps the results, to make the page again.")] = None,
) -> None:
    """Rank methods: means with intervals over the items of all seeds, the spread over seeds, and costs.

    Example: deltamem leaderboard runs/embedded --keep benchmarks/results/leaderboard --output docs/leaderboard.md
    """
    from deltamem.files import write_atomically
    from deltamem_lab.leaderboard import collect, load_results, save_results
    from deltamem_lab.notes import join_notes, read_notes
    from deltamem_lab.records import read_runs
    from deltamem_lab.report.leaderboard import leaderboard as page
    from deltamem_lab.report.page import to_markdown

    files = [source for source in sources if source.suffix == ".json"]
    runs = [source for source in sources if source not in files]
    collected = collect(read_runs(runs), join_notes(map(read_notes, runs)))
    several = [*collected, *map(load_results, files)]
    write_atomically(output, to_markdown(page(several)).encode())
    print(output)
    if keep is not None:
        for results in several:
            print(save_results(results, keep))
