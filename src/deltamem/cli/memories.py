"""``deltamem memories``: memories of other products, told to a server."""

from pathlib import Path
from typing import Annotated

import typer

from deltamem.wording import counted

memories = typer.Typer(
    no_args_is_help=True,
    help="Import memories that other products exported.\n\nExample: deltamem memories import chats.zip --user ravi",
)


@memories.command("import")
def import_memories(
    file: Annotated[
        Path, typer.Argument(help="mem0's JSON, Letta's agent file (.af), or ChatGPT's export: the zip or its JSON.")
    ],
    user: Annotated[str, typer.Option(help="Whose memories they become.")] = "",
    agent: Annotated[str, typer.Option(help="The agent that they belong to.")] = "",
    run: Annotated[str, typer.Option(help="The run that they belong to.")] = "",
    server: Annotated[
        str, typer.Option(envvar="DELTAMEM_URL", help="Address of a running deltamem serve --keep-messages.")
    ] = "http://127.0.0.1:8000",
    key: Annotated[str, typer.Option(envvar="DELTAMEM_API_KEY", help="API key for that server.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the texts and send nothing.")] = False,
) -> None:
    """Import what mem0, Letta or ChatGPT exported.

    Each text becomes a memory, and its metadata says where it is from. Of conversations, what the user said is taken.

    Example: deltamem memories import conversations.json --user ravi
    """
    from deltamem.exports import read_export

    found = read_export(file)
    if dry_run:
        for one in found:
            typer.echo(one.text)
        return
    if not (user or agent or run):
        raise ValueError("Say whose memories they become: --user, --agent or --run.")
    from deltamem.client import MemoryClient

    with MemoryClient(server, key or None) as client:
        for place, one in enumerate(found, 1):
            metadata = {"source": one.source, **one.about}
            try:
                client.add(
                    one.text, user_id=user or None, agent_id=agent or None, run_id=run or None, metadata=metadata
                )
            except (ValueError, OSError) as error:
                raise ValueError(f"{place - 1} of {counted(len(found), 'text')} were remembered. {error}") from None
    typer.echo(f"Remembered {counted(len(found), 'text')} of {found[0].source}.")
