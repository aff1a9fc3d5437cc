"""``deltamem demo``: a frozen model recalls what it was told after the text is gone, on one's own machine, offline."""

import json
from pathlib import Path
from typing import Annotated

import typer

_FACTS, _FACTS_SEED = 12, 1


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the pictures and a memory.")] = Path("deltamem-demo"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON; progress goes to standard error.")
    ] = False,
    embedded: Annotated[bool, typer.Option("--embedded", help="Run the toy: half a minute, no model to pull.")] = False,
    adapter: Annotated[str, typer.Option(help="Another adapter of the real model, a folder or Hub id.")] = "",
    facts: Annotated[bool, typer.Option("--facts", help="Only print some held-out facts of the toy as JSON.")] = False,
    ask: Annotated[bool, typer.Option("--ask", help="Talk to the toy instead.")] = False,
) -> None:
    """Watch a frozen language model remember: two cores, no network, two minutes.

    You see SmolLM2-135M-Instruct, a real chat model (deltamem pull smollm2), being told things. Then the text is
    dropped, and the model is asked, beside the bare model, BM25 and the full text. A small table on held-out dialogues
    follows. Without that model, or with --embedded, you see a toy backbone in its own small world, with tables on
    recall, corrections, forgetting over 2,000 tokens, and what the adapter costs the backbone.

    Example: deltamem demo --output pictures
    """
    import sys

    from deltamem.cli.models import choose_model, default_model
    from deltamem.models.catalog import EMBEDDED

    if sum((as_json, facts, ask)) > 1:
        raise typer.BadParameter("--json, --facts and --ask exclude one another; give one of them.")
    if adapter and (embedded or facts or ask):
        raise typer.BadParameter("--adapter is for the real model's demo; leave it or the others out.")
    if facts:
        from deltamem.demo.world import held_out_facts

        print(json.dumps(held_out_facts(_FACTS_SEED, _FACTS), indent=2))
        return
    if ask:
        from deltamem.cli.chat import chat

        chat(model="embedded", window=0, max_new_tokens=24)
        return
    if embedded or (default_model() == EMBEDDED and not adapter):
        from deltamem.demo.show import run_demo

        if not embedded:
            print("This is the toy. For the demo with a real chat model: deltamem pull smollm2", file=sys.stderr)
        data = run_demo(output, as_data=as_json)
    else:
        choose_model("smollm2", adapter)
        from deltamem.demo.real.show import run_real_demo

        data = run_real_demo(output, adapter, as_data=as_json)
    if as_json:
        print(json.dumps(data, indent=2))
