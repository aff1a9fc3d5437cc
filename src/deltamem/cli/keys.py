"""``deltamem keys``: who may use a server."""

import json
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deltamem.cli.places import StoreUrl, open_store
from deltamem.cli.store import note

if TYPE_CHECKING:
    from deltamem.store import SessionStore

keys = typer.Typer(
    no_args_is_help=True,
    help="Make, list and revoke the API keys of a server's store.\n\nExample: deltamem keys create acme",
)


@keys.command("create")
def create(
    tenant: Annotated[str, typer.Argument(help="Whose sessions the key opens.")],
    store: StoreUrl = "",
    scope: Annotated[
        Literal["read", "write", "admin"],
        typer.Option(help="What it may do: ask, also change sessions, or also what concerns the whole tenant."),
    ] = "write",
    label: Annotated[str | None, typer.Option(help="A line that says what the key is for.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="No limit by default.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="Tokens read and generated.")] = None,
    request_bytes: Annotated[int | None, typer.Option(min=1, help="The largest request.")] = None,
    if_none: Annotated[bool, typer.Option("--if-none", help="Only if the store has no active key yet.")] = False,
) -> None:
    """Create a key and print it, only once: the store keeps only its hash."""
    from deltamem.store import ApiKeys, KeyLimits

    limits = KeyLimits(requests_per_minute, tokens_per_minute, request_bytes)
    with open_store(store) as sessions:
        if if_none and ApiKeys(sessions).any_active():
            return
        made = ApiKeys(sessions).create(tenant, label, limits, scope=scope)
        note(sessions, tenant, "admin", f"keys create {made.record.id}")
    typer.echo(
        f"{made.record.id} opens tenant {tenant} with the scope {scope}. The key, which cannot be shown again:",
        err=True,
    )
    typer.echo(made.secret)


@keys.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    store: StoreUrl = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """List keys with their limits and last use, the revoked ones too, and limits of tenants that have no key."""
    from deltamem.store import ApiKeys, Rates

    with open_store(store, create=False) as sessions:
        found = ApiKeys(sessions).list(tenant)
        limited = Rates(sessions).limits()
    if as_json:
        shown = [{**vars(key), "limits": vars(key.limits), "tenant_limits": vars(key.tenant_limits)} for key in found]
        typer.echo(json.dumps(shown, indent=2, default=datetime.isoformat))
        return
    if not found:
        typer.echo("There are no API keys. Make one with deltamem keys create TENANT.", err=True)
    for key in found:
        state = "revoked" if key.revoked else "active"
        used = f"used {key.last_used:%Y-%m-%d %H:%M} UTC" if key.last_used else "never used"
        limits, shared = _shown(vars(key.limits)), _shown(vars(key.tenant_limits))
        shared = shared and f"all keys together {shared}"
        line = [f"{key.id}  {key.tenant}  {key.hint}…  {state}  {key.scope}", used, limits, shared, key.label or ""]
        typer.echo("  ".join(part for part in line if part))
    for name, of_tenant in limited.items():
        if tenant in (None, name) and all(key.tenant != name for key in found):
            typer.echo(f"No key opens the tenant {name}; its limits are {_shown(vars(of_tenant))}.")


@keys.command("limit")
def limit(
    tenant: Annotated[str, typer.Argument(help="Whose requests, with whatever keys.")],
    store: StoreUrl = "",
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="No limit by default.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="Tokens read and generated.")] = None,
) -> None:
    """Limit what all keys of a tenant may ask for together, on all servers of the store; without options lift it.

    Example: deltamem keys limit acme --requests-per-minute 600
    """
    from deltamem.store import Rates, TenantLimits

    limits = TenantLimits(requests_per_minute, tokens_per_minute)
    said = _shown(vars(limits)) or "no limits"
    with open_store(store, create=False) as sessions:
        Rates(sessions).limit(tenant, limits)
        note(sessions, tenant, "admin", f"keys limit {said}")
        doubt_tenant(sessions, tenant)
    typer.echo(f"Tenant {tenant}: {said}.")


@keys.command("revoke")
def revoke(key_id: Annotated[str, typer.Argument(help="Its id, as in the list.")], store: StoreUrl = "") -> None:
    """Revoke a key, at once."""
    from deltamem.store import ApiKeys

    with open_store(store, create=False) as sessions:
        record = ApiKeys(sessions).revoke(key_id)
        note(sessions, record.tenant, "admin", f"keys revoke {record.id}")
    typer.echo(f"{record.id} of tenant {record.tenant} is revoked.")


def doubt_tenant(sessions: "SessionStore", tenant: str) -> None:
    """Says that no key opens a tenant, whose name may be wrong."""
    from deltamem.store import ApiKeys

    if not ApiKeys(sessions).list(tenant):
        typer.echo(f"No key opens the tenant {tenant} yet; is that its name?", err=True)


def _shown(limits: dict[str, int | None]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in limits.items() if value is not None)
