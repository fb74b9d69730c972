"""Account: who is signed in, with which sessions and tokens; create and revoke tokens."""

import streamlit as st

from filemill.adapters.postgres.tokens import TokenRow
from filemill.domain.files import epoch_milliseconds
from filemill.domain.limits import limit_key
from filemill.domain.permissions import Permission, Principal, allows
from filemill.errors import Forbidden, NotFound, Unavailable
from filemill.services.quotas import UsageView
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.facts import Fact, facts
from filemill_dashboard.components.grid import Column, RowAction, TableRow, data_grid
from filemill_dashboard.components.links import links
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.components.token_dialog import request_token_dialog, token_dialog
from filemill_dashboard.state import page_data
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.page_data import PageData, Snapshot
from filemill_dashboard.state.principals import page_principal, page_session, why_not
from filemill_dashboard.state.services import Services

TOKENS = [
    Column("label", "Token"),
    Column("role", "Role", "text", 96),
    Column("from", "Valid from", "text", 170, hide_below=800),
    Column("expires", "Expires", "moment", 190),
    Column("used", "Last used", "moment", 190, hide_below=900),
    Column("state", "State", "badge", 96),
]
SESSIONS = [
    Column("address", "Address"),
    Column("created", "Signed in", "moment", 190, hide_below=720),
    Column("used", "Last used", "moment", 190),
    Column("state", "State", "badge", 130),
]
_WITHOUT_ACCOUNTS = "Everyone who reaches the port is admin. FILEMILL_AUTH turns sign-in on."


def _account(data: PageData, _snapshot: CachedValue[Snapshot]) -> None:
    viewer, services = page_principal(), data.services
    mode = services.settings.auth
    if mode == "local":
        show_notices("account", [Notice("none", "There are no accounts in this mode", _WITHOUT_ACCOUNTS)])
        return
    try:
        with st.container(key="columns", horizontal=True, gap="large"):
            with st.container(key="half-a"):
                facts("viewer", [Fact("Signed in as", viewer.name), Fact("Role", viewer.role)], title="You")
                links("sign-out", [("Sign out", "/sign-out")])
                _limits(services, viewer)
            if page_session() is not None:
                with st.container(key="half-b"):
                    _sessions(services, viewer)
        if mode == "accounts":  # personal tokens are accepted in this mode only
            _tokens(services, viewer)
    except (Unavailable, Forbidden) as error:
        show_notices("account", [Notice("bad", "No data", str(error))])
    if st.session_state.pop("open_dialog", False):
        st.rerun(scope="app")  # the next refresh would close a dialog that a fragment opened


def _limits(services: Services, viewer: Principal) -> None:
    """Show what the viewer may submit, and how much of it is left."""
    lines = []
    pages, key = services.open_pages, limit_key(viewer)
    if pages.most and key is not None:
        lines.append(Fact("Open pages", f"{pages.count(key):,} of {pages.most:,}"))
    usage = services.submissions.usage(viewer)
    if usage is not None:
        lines += _submissions(usage)
    if lines:
        facts("limits", lines, title="Your limits")


def _submissions(usage: UsageView) -> list[Fact]:
    limits, lines = usage.limits, []
    if limits.writes_per_second:
        left = f"{usage.writes_left:,} of {limits.burst:,} left, {limits.writes_per_second:g} more each second"
        lines.append(Fact("Requests", left))
    if limits.files_in_flight:
        lines.append(Fact("Files in flight", f"{usage.files_in_flight:,} of {limits.files_in_flight:,}"))
    if limits.bytes_per_day:
        lines.append(Fact("Bytes today (UTC)", f"{usage.bytes_today:,} of {limits.bytes_per_day:,}"))
    return lines


def _sessions(services: Services, viewer: Principal) -> None:
    current = (page_session() or "")[:16]
    page_shell.section_heading("Your sessions")
    data_grid(
        "sessions",
        SESSIONS,
        [
            TableRow(
                one.id,
                {
                    "address": one.address,
                    "created": epoch_milliseconds(one.created_at),
                    "used": epoch_milliseconds(one.used_at),
                    "state": ("this browser", "good") if one.id == current else ("other", "none"),
                },
                actions=[RowAction("end", "Sign out", danger=True)],
            )
            for one in services.sessions.list_own(viewer)
        ],
        label="Your sessions",
        empty=("No sessions", ""),
        on_action=lambda session, _action: _end_session(services, session),
    )


def _tokens(services: Services, viewer: Principal) -> None:
    all_tokens = allows(viewer.role, Permission.MANAGE_TOKENS)
    found = services.tokens.list(viewer, None if all_tokens else viewer.name)
    with st.container(key="tokens-head", horizontal=True, vertical_alignment="center"):
        page_shell.section_heading("Your tokens")
        reason = why_not(Permission.CREATE_TOKENS)
        st.button(
            "New token …",
            key="token-open",
            on_click=request_token_dialog,
            disabled=bool(reason),
            help=reason or "A program uses REST with a token, for you",
        )
    own = [one for one in found if one.owner == viewer.name]
    empty = ("No tokens", "A program needs one to use REST for you.")
    _token_grid("tokens", "Your tokens", TOKENS, own, empty, services, viewer.name)
    if all_tokens:
        page_shell.section_heading("Tokens of others")
        others = [one for one in found if one.owner != viewer.name]
        columns = [Column("owner", "Owner", "text", 120), *TOKENS]
        empty = ("No tokens", "Other people have no tokens.")
        _token_grid("others", "Tokens of others", columns, others, empty, services, None)


def _token_grid(
    key: str,
    label: str,
    columns: list[Column],
    rows: list[TokenRow],
    empty: tuple[str, str],
    services: Services,
    owner: str | None,
) -> None:
    data_grid(
        key,
        columns,
        [
            TableRow(
                str(one.id),
                {
                    "owner": one.owner,
                    "label": one.label,
                    "role": one.role.value,
                    "from": ", ".join(one.networks) or "all addresses",
                    "expires": None if one.expires_at is None else epoch_milliseconds(one.expires_at),
                    "used": None if one.used_at is None else epoch_milliseconds(one.used_at),
                    "state": ("expired", "none") if one.expired else ("valid", "good"),
                },
                titles={"expires": "" if one.expires_at else "Valid until it is revoked"},
                actions=[RowAction("revoke", "Revoke", danger=True)],
            )
            for one in rows
        ],
        label=label,
        empty=empty,
        on_action=lambda number, _action: _revoke(services, int(number), owner),
    )


def _end_session(services: Services, session: str) -> None:
    try:
        services.sessions.end_own(session, page_principal())
    except (Forbidden, NotFound, Unavailable) as error:
        st.toast(f"The session was not ended: {error}")


def _revoke(services: Services, number: int, owner: str | None) -> None:
    try:
        services.tokens.revoke(number, page_principal(), owner=owner)
    except (Forbidden, NotFound, Unavailable) as error:
        st.toast(f"The token was not revoked: {error}")
    else:
        st.toast(f"Token {number} is revoked")


page_shell.render_page("Account", _account)
token_dialog(page_data.current())
