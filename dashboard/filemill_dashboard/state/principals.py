"""The principal of a page and of a REST request, and why a control is disabled for it."""

import time

import streamlit as st
from starlette.requests import Request

from filemill.config.settings import Settings
from filemill.domain.file_actions import FileAction, action_refusal, only_owner
from filemill.domain.permissions import NOBODY, Permission, Principal, local_admin, refusal
from filemill.errors import Unavailable
from filemill_dashboard.state import services
from filemill_dashboard.state.identity import PRINCIPAL, USER_KEY, decode_identity

PAGE = local_admin("page")


def page_principal() -> Principal:
    """The principal of the viewer whose page is being drawn or whose click is being handled.

    Determined at each run of the page, so an ended session ends in an open tab too.
    """
    current = services.current()
    if current.settings.auth == "local":
        return PAGE
    header = st.user.get(USER_KEY)
    if not isinstance(header, str):
        return NOBODY
    identity = decode_identity(header)
    if identity.session is None:
        return identity.principal(time.time())
    try:
        return current.sessions.find(bytes.fromhex(identity.session)) or NOBODY
    except Unavailable:
        return NOBODY  # PostgreSQL has been unreachable for minutes: nobody knows whether the session was revoked


def page_owner() -> str | None:
    """The only owner whose files the viewer may see; None: the viewer may see all."""
    return only_owner(page_principal(), own_files_only=services.current().settings.own_files_only)


def request_owner(request: Request, settings: Settings) -> str | None:
    """The only owner whose files the principal of a REST request may read; None: it may read all."""
    return only_owner(request_principal(request), own_files_only=settings.own_files_only)


def page_session() -> str | None:
    """The key of the viewer's stored session, in hexadecimal; None in the modes without such sessions."""
    header = st.user.get(USER_KEY)
    return decode_identity(header).session if isinstance(header, str) else None


def why_not(permission: Permission) -> str:
    """Why the viewer may not use a control, for its tooltip; empty if the viewer may."""
    forbidden = refusal(page_principal(), permission)
    return "" if forbidden is None else str(forbidden)


def why_not_act(action: FileAction, owner: str | None) -> str:
    """Why the viewer may not do the action to a file of this owner; empty if the viewer may."""
    forbidden = action_refusal(page_principal(), action, owner)
    return "" if forbidden is None else str(forbidden)


def request_principal(request: Request) -> Principal:
    """The principal of a REST request, as the authentication in front of REST determined it."""
    principal: Principal = request.scope.get(PRINCIPAL, NOBODY)
    return principal
