"""``deltamem demo``: a frozen model recalls what it was told after the text is gone, on one's own machine, offline."""

import json
from pathlib import Path
from typing import Annotated

import typer

_FACTS, _FACTS_SEED = 12, 1


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the pictures and a memory.")] = Path("deltamem-demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON; progress on stderr.")] = False,
    facts: Annotated[bool, typer.Option("--facts", help="Only print some held-out facts as JSON.")] = False,
    ask: Annotated[bool, typer.Option("--ask", help="Talk to the embedded model instead.")] = False,
) -> None:
    """Watch a frozen language model remember: half a minute, two cores, no network.

    A small embedded backbone is told things, the text is dropped, and it answers from a memory of six kilobytes.
    Then come measurements on held-out dialogues beside no context, another dialogue's memory, BM25 and the full
    text: recall, corrections, forgetting over 2,000 tokens, and what the adapter costs the backbone.

    Example: deltamem demo --output pictures
    """
    if sum((as_json, facts, ask)) > 1:
        raise typer.BadParameter("--json, --facts and --ask exclude one another; give one of them.")
    if facts:
        from deltamem.demo.world import held_out_facts

        print(json.dumps(held_out_facts(_FACTS_SEED, _FACTS), indent=2))
        return
    if ask:
        from deltamem.cli.chat import chat

        chat(model="embedded", window=0, max_new_tokens=24)
        return
    from deltamem.demo.show import run_demo

    data = run_demo(output, as_data=as_json)
    if as_json:
        print(json.dumps(data, indent=2))
