"""The principal of a page and of a REST request, and why a control is disabled for it."""

from starlette.requests import Request

from filemill.domain.permissions import Permission, Principal, local_admin, refusal

PAGE = local_admin("page")


def page_principal() -> Principal:
    """The principal of the viewer whose page is being drawn or whose click is being handled."""
    return PAGE


def why_not(permission: Permission) -> str:
    """Why the viewer may not use a control, for its tooltip; empty if the viewer may."""
    forbidden = refusal(page_principal(), permission)
    return "" if forbidden is None else str(forbidden)


def request_principal(request: Request) -> Principal:
    """The principal of a REST request; its name has the client's address, as the request filter determined it."""
    return local_admin(f"rest:{request.client.host}" if request.client else "rest")
