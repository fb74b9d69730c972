"""The principal of a page and of a REST request, and why a control is disabled for it."""

import time

import msgspec
import streamlit as st
from starlette.requests import Request

from filemill.config.settings import Settings
from filemill.domain.file_actions import FileAction, action_refusal, only_owner
from filemill.domain.permissions import ANONYMOUS, LOCAL, Permission, Principal, RequestSource, local_admin, refusal
from filemill.errors import Unavailable
from filemill_dashboard.state import services
from filemill_dashboard.state.identity import (
    PRINCIPAL,
    SOURCE_HEADER,
    USER_KEY,
    authentication_of,
    decode_identity,
    decode_source,
)

PAGE = local_admin("page")


def page_principal() -> Principal:
    """The principal of the viewer whose page is being drawn or whose click is being handled.

    Determined at each run of the page, so an ended session ends in an open tab too. Its source has the address of the
    client, and the id of the request that opened the page's WebSocket.
    """
    viewer, authentication = _viewer()
    header = st.context.headers.get(SOURCE_HEADER)
    source = decode_source(header) if header else RequestSource()
    return msgspec.structs.replace(viewer, source=msgspec.structs.replace(source, authentication=authentication))


def _viewer() -> tuple[Principal, str]:
    """The viewer, and how the viewer has signed in."""
    current = services.current()
    mode = current.settings.auth
    if mode == "local":
        return PAGE, LOCAL.authentication
    header = st.user.get(USER_KEY)
    if not isinstance(header, str):
        return ANONYMOUS, ""
    identity = decode_identity(header)
    authentication = authentication_of(identity, mode)
    if identity.session is None:
        return identity.principal(time.time()), authentication
    try:
        return current.sessions.find(bytes.fromhex(identity.session)) or ANONYMOUS, authentication
    except Unavailable:
        # PostgreSQL has been unreachable for minutes, so the session may have been revoked.
        return ANONYMOUS, authentication


def page_owner() -> str | None:
    """The only owner whose files the viewer may see; None: the viewer may see all."""
    return only_owner(_viewer()[0], own_files_only=services.current().settings.own_files_only)


def request_owner(request: Request, settings: Settings) -> str | None:
    """The only owner whose files the principal of a REST request may read; None: it may read all."""
    return only_owner(request_principal(request), own_files_only=settings.own_files_only)


def page_session() -> str | None:
    """The key of the viewer's stored session, in hexadecimal; None in the modes without such sessions."""
    header = st.user.get(USER_KEY)
    return decode_identity(header).session if isinstance(header, str) else None


def why_not(permission: Permission) -> str:
    """Why the viewer may not use a control, for its tooltip; empty if the viewer may."""
    forbidden = refusal(_viewer()[0], permission)
    return "" if forbidden is None else str(forbidden)


def why_not_act(action: FileAction, owner: str | None) -> str:
    """Why the viewer may not do the action to a file of this owner; empty if the viewer may."""
    forbidden = action_refusal(_viewer()[0], action, owner)
    return "" if forbidden is None else str(forbidden)


def request_principal(request: Request) -> Principal:
    """The principal of a REST request, as the authentication in front of REST determined it."""
    principal: Principal = request.scope.get(PRINCIPAL, ANONYMOUS)
    return principal
