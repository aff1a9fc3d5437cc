"""``deltamem webhooks``: addresses that get messages about what was done."""

import json
from typing import Annotated

import typer

from deltamem.cli.keys import doubt_tenant
from deltamem.cli.places import StoreUrl, open_store
from deltamem.cli.store import note

webhooks = typer.Typer(
    no_args_is_help=True,
    help="Make, list and delete webhooks of a server's store: addresses that get messages about what was done."
    "\n\nExample: deltamem webhooks create acme https://example.com/hook",
)


@webhooks.command("create")
def create(
    tenant: Annotated[str, typer.Argument(help="The tenant; 'default' on a server without API keys.")],
    url: Annotated[str, typer.Argument(help="Where servers POST a JSON object to.")],
    on: Annotated[
        list[str] | None,
        typer.Option(help="One of read, write, export, delete and admin; by default write, export and delete."),
    ] = None,
    store: StoreUrl = "",
) -> None:
    """Make a webhook and print the secret that its messages are signed with, as standardwebhooks.com has it."""
    from deltamem.serve.settings import LOCAL_TENANT
    from deltamem.store import Webhooks

    with open_store(store, create=False) as sessions:
        hooks = Webhooks(sessions)
        made = hooks.create(tenant, url, on) if on else hooks.create(tenant, url)
        note(sessions, tenant, "admin", f"webhooks create {made.id}")
        if tenant != LOCAL_TENANT:
            doubt_tenant(sessions, tenant)
    typer.echo(f"{made.id} gets a message for each {', '.join(made.actions)} of tenant {tenant}. Its secret:", err=True)
    typer.echo(made.secret)


@webhooks.command("list")
def list_webhooks(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    store: StoreUrl = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything but the secrets as JSON.")] = False,
) -> None:
    """List webhooks."""
    from deltamem.store import Webhooks

    with open_store(store, create=False) as sessions:
        found = Webhooks(sessions).list(tenant)
    if as_json:
        shown = [{name: value for name, value in vars(hook).items() if name != "secret"} for hook in found]
        typer.echo(json.dumps(shown, indent=2, default=str))
        return
    if not found:
        typer.echo("There are no webhooks. Make one with deltamem webhooks create TENANT URL.", err=True)
    for hook in found:
        typer.echo(f"{hook.id}  {hook.tenant}  {hook.url}  {', '.join(hook.actions)}")


@webhooks.command("delete")
def delete(webhook: Annotated[str, typer.Argument(help="Its id, as in the list.")], store: StoreUrl = "") -> None:
    """Delete a webhook and the messages that it has not received yet."""
    from deltamem.store import Webhooks

    with open_store(store, create=False) as sessions:
        gone = Webhooks(sessions).delete(webhook)
        note(sessions, gone.tenant, "admin", f"webhooks delete {gone.id}")
    typer.echo(f"{gone.id} of tenant {gone.tenant} is deleted.")
