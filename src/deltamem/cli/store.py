"""``deltamem store``: looking after a server's store."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltamem.cli.places import StoreUrl, open_store
from deltamem.wording import counted

if TYPE_CHECKING:
    from deltamem.store import Action, SessionStore

store = typer.Typer(
    no_args_is_help=True,
    help="Look after a server's store: count, clean up, re-encrypt, copy, delete.\n\nExample: deltamem store stats",
)
_Json = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]
_PLAIN = "(plain)"
_OPERATOR = "operator"
_Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@store.command("stats")
def stats(
    url: StoreUrl = "",
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    as_json: _Json = False,
) -> None:
    """Count what the store holds. Like every command, it brings the tables of an older version up to date first.

    Example: deltamem store stats --store postgresql://deltamem@db/deltamem
    """
    with open_store(url, create=False) as sessions:
        figures = sessions.stats(tenant)
    by_key = {key or _PLAIN: rows for key, rows in figures.rows_by_key.items()}
    found = {**vars(figures), "rows_by_key": by_key}
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        shown = ", ".join(f"{key} {rows:,}" for key, rows in value.items()) if isinstance(value, dict) else f"{value:,}"
        typer.echo(f"{name.replace('_', ' '):15}{shown}".rstrip())
    plain = by_key.get(_PLAIN, 0)
    if 0 < plain < sum(by_key.values()):
        typer.echo(f"{counted(plain, 'row')} in plain text beside encrypted ones; deltamem store rekey encrypts them.")


@store.command("purge")
def purge(
    url: StoreUrl = "",
    keep_versions: Annotated[
        int | None, typer.Option(min=1, help="Also delete all but this many of the latest versions of every session.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count them.")] = False,
    as_json: _Json = False,
) -> None:
    """Delete expired sessions, as a running server does every minute, and on request old versions.

    Example: deltamem store purge --keep-versions 20 --dry-run
    """
    with open_store(url, create=False) as sessions:
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
def rekey(url: StoreUrl = "", as_json: _Json = False) -> None:
    """Encrypt everything with the first key of DELTAMEM_KEYS; servers may keep running.

    Put a new key first, restart the servers, run this, and remove the old key.

    Example: DELTAMEM_KEYS="new:…,old:…" deltamem store rekey
    """
    with open_store(url, create=False) as sessions:
        rows = sessions.rekey()
    _tell({"rows": rows}, f"Encrypted {counted(rows, 'row')} of versions and messages anew.", as_json)


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
    session: Annotated[str, typer.Argument(help="The session's name.")],
    url: StoreUrl = "",
    yes: _Yes = False,
    as_json: _Json = False,
) -> None:
    """Delete a session with all its versions and messages. Its forks stay.

    Example: deltamem store delete-session acme ravi
    """
    with open_store(url, create=False) as sessions:
        sessions.get(tenant, session)
        _confirm(f"Delete session {session} of tenant {tenant} for good?", yes)
        sessions.delete(tenant, session)
        note(sessions, tenant, "delete", "store delete-session", session=session)
    _tell({"tenant": tenant, "session": session}, f"Deleted session {session} of tenant {tenant}.", as_json)


@store.command("delete-tenant")
def delete_tenant(
    tenant: Annotated[str, typer.Argument(help="The tenant.")],
    url: StoreUrl = "",
    yes: _Yes = False,
    as_json: _Json = False,
) -> None:
    """Delete everything a tenant has: sessions, versions, messages and API keys.

    Example: deltamem store delete-tenant acme
    """
    from deltamem.store import ApiKeys, NotFoundError

    with open_store(url, create=False) as sessions:
        keys, held = len(ApiKeys(sessions).list(tenant)), sessions.stats(tenant).sessions
        if not keys and not held:
            raise NotFoundError(f"Tenant {tenant!r} has no session and no API key; check its name.")
        _confirm(f"Delete {counted(held, 'session')} and {counted(keys, 'API key')} of tenant {tenant} for good?", yes)
        gone = sessions.delete_tenant(tenant)
        note(sessions, tenant, "delete", "store delete-tenant")
    _tell(
        {"tenant": tenant, "sessions": gone, "api_keys": keys},
        f"Deleted {counted(gone, 'session')} and {counted(keys, 'API key')} of tenant {tenant}.",
        as_json,
    )


@store.command("delete-user")
def delete_user(
    tenant: Annotated[str, typer.Argument(help="The tenant; 'default' on a server without API keys.")],
    user: Annotated[str, typer.Argument(help="The user.")],
    url: StoreUrl = "",
    yes: _Yes = False,
    as_json: _Json = False,
) -> None:
    """Delete everything a tenant's user has: all sessions with their versions and messages.

    Example: deltamem store delete-user acme ravi
    """
    with open_store(url, create=False) as sessions:
        _confirm(f"Delete all sessions of user {user} of tenant {tenant} for good?", yes)
        gone = sessions.delete_user(tenant, user)
        note(sessions, tenant, "delete", "store delete-user", user=user)
    told = f"Deleted {counted(gone, 'session')} of user {user} of tenant {tenant}."
    _tell({"tenant": tenant, "user": user, "sessions": gone}, told, as_json)


@store.command("export")
def export(
    tenant: Annotated[str, typer.Argument(help="The tenant; 'default' on a server without API keys.")],
    user: Annotated[str | None, typer.Option(help="Only what this user has.")] = None,
    url: StoreUrl = "",
) -> None:
    """Print everything a tenant or a user has as JSON lines: sessions with memories and messages, keys, audit log.

    Example: deltamem store export acme --user ravi > ravi.jsonl
    """
    from deltamem.store import export as lines

    with open_store(url, create=False) as sessions:
        note(sessions, tenant, "export", "store export", user=user)
        for line in lines(sessions, tenant, user):
            typer.echo(json.dumps(line))


@store.command("copy")
def copy(
    to: Annotated[
        str,
        typer.Option(
            envvar="DELTAMEM_COPY_TO",
            help="The new store, sqlite:///file or postgresql://user@host/database; it must hold nothing yet.",
        ),
    ],
    url: StoreUrl = "",
    as_json: _Json = False,
) -> None:
    """Copy everything into an empty store, such as PostgreSQL's instead of SQLite's. Stop the servers first.

    What is encrypted stays so, under the same keys. If it fails, nothing is in the new store. The old one is left as
    it is, but for an entry in its audit log.

    Example: deltamem store copy --store sqlite:///sessions.db --to postgresql://deltamem@db/deltamem
    """
    with open_store(url, create=False) as sessions, open_store(to) as new:
        note(sessions, None, "export", "store copy")
        rows = sessions.copy_to(new)
        place = new.database.place
    told = (
        f"Copied {counted(rows['deltamem_sessions'], 'session')} with {counted(rows['deltamem_versions'], 'version')} "
        f"and {counted(rows['deltamem_messages'], 'message')}, and {counted(rows['deltamem_api_keys'], 'API key')}, to "
        f"{place}. Start the servers with it."
    )
    _tell({"to": place, "rows": rows}, told, as_json)


@store.command("vacuum")
def vacuum(url: StoreUrl = "", as_json: _Json = False) -> None:
    """Write the tables anew, without what was deleted. It needs as much space again, and servers wait meanwhile.

    On PostgreSQL this is what takes deleted rows out of its files; its write-ahead log keeps them until its segments
    are removed.

    Example: deltamem store vacuum
    """
    with open_store(url, create=False) as sessions:
        sessions.vacuum()
    _tell({"vacuumed": True}, "The tables were written anew, without what was deleted.", as_json)


@store.command("audit")
def audit(
    url: StoreUrl = "",
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Only from this time on, in UTC.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Only before this time, in UTC.")] = None,
) -> None:
    """Print the audit log, the oldest entry first, as JSON lines. Servers add to it with deltamem serve --audit.

    Example: deltamem store audit --tenant acme --since 2026-11-01 > audit.jsonl
    """
    from deltamem.store import AuditLog

    with open_store(url, create=False) as sessions:
        for entry in AuditLog(sessions).all(tenant, since=_utc(since), until=_utc(until)):
            typer.echo(json.dumps({"number": entry.number, **vars(entry)}, default=datetime.isoformat))


@store.command("prune-audit")
def prune_audit(
    before: Annotated[datetime, typer.Argument(help="A time in UTC, such as 2026-01-01.")],
    url: StoreUrl = "",
    yes: _Yes = False,
    as_json: _Json = False,
) -> None:
    """Delete the audit log's entries before a time. Nothing else deletes them, and a new entry says that it was done.

    Example: deltamem store prune-audit 2026-01-01
    """
    from deltamem.store import Act, AuditLog

    with open_store(url, create=False) as sessions:
        _confirm(f"Delete all entries of the audit log before {before} UTC for good?", yes)
        by = Act(None, "admin", route="deltamem store prune-audit", key=_OPERATOR)
        gone = AuditLog(sessions).prune(before.replace(tzinfo=UTC), by)
    _tell({"entries": gone}, f"Deleted {counted(gone, 'line')} of the audit log.", as_json)


def note(
    sessions: "SessionStore",
    tenant: str | None,
    action: "Action",
    command: str,
    *,
    session: str | None = None,
    user: str | None = None,
) -> None:
    """Notes in the audit log what an operator's command did."""
    from deltamem.store import Act, AuditLog

    AuditLog(sessions).add(
        [Act(tenant, action, route=f"deltamem {command}", key=_OPERATOR, session=session, user=user)]
    )


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)


def _confirm(question: str, yes: bool) -> None:
    if not yes:
        typer.confirm(question, abort=True, err=True)


def _tell(figures: Mapping[str, Any], sentence: str, as_json: bool) -> None:
    typer.echo(json.dumps(figures, indent=2) if as_json else sentence)
