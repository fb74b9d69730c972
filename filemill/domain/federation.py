"""People and programs that others authenticate: their names here, and their roles by the claims about them."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from filemill.domain.permissions import Role

LABEL_MAX_CHARACTERS = 64
SUBJECT_MAX_CHARACTERS = 255
_FORBIDDEN = re.compile(r"[^a-z0-9._@-]+")


def claim_values(claims: Mapping[str, Any], name: str) -> list[str]:
    """The texts of a claim: a text, or a list of texts. `realm_access.roles` is `roles` within `realm_access`."""
    found: Any = claims.get(name)
    if found is None and "." in name:
        found = claims
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, str):
        return [found]
    return [value for value in found if isinstance(value, str)] if isinstance(found, list) else []


def highest_role(values: Iterable[str], roles: Mapping[str, Role], default: Role | None) -> Role | None:
    """The highest role that one of the values gives; otherwise the default."""
    found = [roles[value] for value in values if value in roles]
    return max(found, key=lambda role: role.rank) if found else default


def account_label(claims: Mapping[str, Any]) -> str:
    """What to call somebody, in the characters of an account's name. It identifies nobody: the subject does."""
    verified_email = claims.get("email") if claims.get("email_verified") is True else None
    for text in (claims.get("preferred_username"), verified_email, claims.get("client_id"), claims.get("sub")):
        if isinstance(text, str):
            label = _FORBIDDEN.sub("-", text[: 4 * LABEL_MAX_CHARACTERS].lower()).strip("-._@")[:LABEL_MAX_CHARACTERS]
            if label:
                return label
    return "user"


def account_names(provider: str, claims: Mapping[str, Any]) -> tuple[str, str]:
    """The name of an account, and the one to use if that is another subject's already."""
    name = f"{provider}/{account_label(claims)}"
    digest = hashlib.sha256(str(claims.get("sub")).encode()).hexdigest()
    return name, f"{name}~{digest[:16]}"


def provider_session(claims: Mapping[str, Any]) -> str | None:
    """The id of the session at the provider; None: the provider names none that is usable."""
    found = claims.get("sid")
    usable = isinstance(found, str) and found.isprintable() and 0 < len(found) <= SUBJECT_MAX_CHARACTERS
    return found if usable else None


def unverified_issuer(token: str) -> str | None:
    """The issuer that a token names, before its signature is verified; None: it names none."""
    payload = token.split(".")[1] if token.count(".") == 2 else ""
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, RecursionError):
        return None
    issuer = claims.get("iss") if isinstance(claims, dict) else None
    return issuer if isinstance(issuer, str) else None
