"""``deltamem store``: looking after a server's store."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltamem.cli.places import Store
from deltamem.wording import counted

if TYPE_CHECKING:
    from deltamem.store import SessionStore, StoreStats

store = typer.Typer(
    no_args_is_help=True,
    help="Look after a server's store: count, clean up, re-encrypt, delete.\n\nExample: deltamem store stats",
)
_Json = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]
_PLAIN = "(plain)"
_Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@store.command("stats")
def stats(
    url: Store = "",
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    as_json: _Json = False,
) -> None:
    """Count what the store holds. Nothing is changed.

    Example: deltamem store stats --store postgresql://deltamem@db/deltamem
    """
    with _open(url) as sessions:
        found = _figures(sessions.stats(tenant))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        shown = ", ".join(f"{key} {rows:,}" for key, rows in value.items()) if isinstance(value, dict) else f"{value:,}"
        typer.echo(f"{name.replace('_', ' '):15}{shown}".rstrip())
    plain = found["rows_by_key"].get(_PLAIN, 0)
    if 0 < plain < sum(found["rows_by_key"].values()):
        typer.echo(f"{counted(plain, 'row')} in plain text beside encrypted ones; deltamem store rekey encrypts them.")


@store.command("purge")
def purge(
    url: Store = "",
    keep_versions: Annotated[
        int | None, typer.Option(min=1, help="Also delete all but this many of the latest versions of every session.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count them.")] = False,
    as_json: _Json = False,
) -> None:
    """Delete expired sessions, as a running server does every minute, and on request old versions.

    Example: deltamem store purge --keep-versions 20 --dry-run
    """
    with _open(url) as sessions:
        if dry_run:
            expired = sessions.stats().expired
            surplus = 0 if keep_versions is None else sessions.surplus(keep_versions)
        else:
            expired = sessions.purge_expired()
            surplus = 0 if keep_versions is None else sessions.trim(keep_versions)
    told = f"{'Would delete' if dry_run else 'Deleted'} {counted(expired, 'expired session')}"
    told += "." if keep_versions is None else f" and {counted(surplus, 'old version')}."
    _tell({"dry_run": dry_run, "expired_sessions": expired, "old_versions": surplus}, told, as_json)


@store.command("rekey")
def rekey(url: Store = "", as_json: _Json = False) -> None:
    """Encrypt everything with the first key of DELTAMEM_KEYS; servers may keep running.

    Put a new key first, restart the servers, run this, and remove the old key.

    Example: DELTAMEM_KEYS="new:…,old:…" deltamem store rekey
    """
    with _open(url) as sessions:
        rows = sessions.rekey()
    _tell({"rows": rows}, f"Encrypted {rows:,} versions and messages anew.", as_json)


@store.command("new-key")
def new_key(
    name: Annotated[str, typer.Argument(help="Its id, such as 2026-11; it is stored beside each row.")],
) -> None:
    """Make an encryption key and print it as DELTAMEM_KEYS takes it.

    It is stored nowhere: if you lose it, you lose the data. To rotate, put it before the old ones with a comma between,
    restart the servers, and run deltamem store rekey.

    Example: export DELTAMEM_KEYS=$(deltamem store new-key 2026-11)
    """
    from deltamem.store import StateKeys

    made = StateKeys.generate(name)
    StateKeys.from_text(made)
    typer.echo(made)


@store.command("delete-session")
def delete_session(
    tenant: Annotated[str, typer.Argument(help="The tenant; 'default' on a server without API keys.")],
    session: Annotated[str, typer.Argument(help="Which.")],
    url: Store = "",
    yes: _Yes = False,
    as_json: _Json = False,
) -> None:
    """Delete a session with all its versions and messages. Its forks stay.

    Example: deltamem store delete-session acme ravi
    """
    with _open(url) as sessions:
        sessions.get(tenant, session)
        _confirm(f"Delete session {session} of tenant {tenant} for good?", yes)
        sessions.delete(tenant, session)
    _tell({"tenant": tenant, "session": session}, f"Deleted session {session} of tenant {tenant}.", as_json)


@store.command("delete-tenant")
def delete_tenant(
    tenant: Annotated[str, typer.Argument(help="Whose sessions and API keys.")],
    url: Store = "",
    yes: _Yes = False,
    as_json: _Json = False,
) -> None:
    """Delete everything a tenant has: sessions, versions, messages and API keys.

    Example: deltamem store delete-tenant acme
    """
    from deltamem.store import ApiKeys, NotFoundError

    with _open(url) as sessions:
        keys, held = len(ApiKeys(sessions).list(tenant)), sessions.stats(tenant).sessions
        if not keys and not held:
            raise NotFoundError(f"Tenant {tenant!r} has no session and no API key; check its name.")
        _confirm(f"Delete {counted(held, 'session')} and {counted(keys, 'API key')} of tenant {tenant} for good?", yes)
        gone = sessions.delete_tenant(tenant)
    _tell(
        {"tenant": tenant, "sessions": gone, "api_keys": keys},
        f"Deleted {counted(gone, 'session')} and {counted(keys, 'API key')} of tenant {tenant}.",
        as_json,
    )


def _open(url: str) -> "SessionStore":
    from deltamem.cli.serve import open_store

    return open_store(url, create=False)


def _confirm(question: str, yes: bool) -> None:
    if not yes:
        typer.confirm(question, abort=True, err=True)


def _tell(figures: Mapping[str, Any], sentence: str, as_json: bool) -> None:
    typer.echo(json.dumps(figures, indent=2) if as_json else sentence)


def _figures(found: "StoreStats") -> dict[str, Any]:
    return {**vars(found), "rows_by_key": {key or _PLAIN: rows for key, rows in found.rows_by_key.items()}}
