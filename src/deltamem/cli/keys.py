"""``deltamem keys``: who may use a server."""

import json
from typing import Annotated

import typer

from deltamem.cli.places import Store

keys = typer.Typer(
    no_args_is_help=True,
    help="Make, list and revoke the API keys of a server's store.\n\nExample: deltamem keys create acme",
)


@keys.command("create")
def create(
    tenant: Annotated[str, typer.Argument(help="Whose sessions the key opens.")],
    store: Store = "",
    label: Annotated[str | None, typer.Option(help="A line that says what the key is for.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="Tokens read and generated.")] = None,
    request_bytes: Annotated[int | None, typer.Option(min=1, help="The largest request.")] = None,
    if_none: Annotated[bool, typer.Option("--if-none", help="Only if the store has no active key yet.")] = False,
) -> None:
    """Create a key and print it, only once: the store keeps only its hash."""
    from deltamem.cli.serve import open_store
    from deltamem.store import ApiKeys, KeyLimits

    limits = KeyLimits(requests_per_minute, tokens_per_minute, request_bytes)
    with open_store(store) as sessions:
        if if_none and ApiKeys(sessions).any_active():
            return
        made = ApiKeys(sessions).create(tenant, label, limits)
    typer.echo(f"{made.record.id} opens tenant {tenant}. The key, which cannot be shown again:", err=True)
    typer.echo(made.secret)


@keys.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    store: Store = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """List keys with their limits and last use, the revoked ones too."""
    from deltamem.cli.serve import open_store
    from deltamem.store import ApiKeys

    with open_store(store, create=False) as sessions:
        found = ApiKeys(sessions).list(tenant)
    if as_json:
        shown = [{**vars(key), "limits": vars(key.limits)} for key in found]
        typer.echo(json.dumps(shown, indent=2, default=str))
        return
    for key in found:
        state = "revoked" if key.revoked else "active"
        used = f"used {key.last_used:%Y-%m-%d %H:%M} UTC" if key.last_used else "never used"
        limits = [
            f"{name.replace('_', ' ')} {value:,}" for name, value in vars(key.limits).items() if value is not None
        ]
        line = [f"{key.id}  {key.tenant}  {key.hint}…  {state}", used, ", ".join(limits), key.label or ""]
        typer.echo("  ".join(part for part in line if part))


@keys.command("revoke")
def revoke(key_id: Annotated[str, typer.Argument(help="Its id, as in the list.")], store: Store = "") -> None:
    """Revoke a key, at once."""
    from deltamem.cli.serve import open_store
    from deltamem.store import ApiKeys

    with open_store(store, create=False) as sessions:
        record = ApiKeys(sessions).revoke(key_id)
    typer.echo(f"{record.id} of tenant {record.tenant} is revoked.")
