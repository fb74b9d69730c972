"""Sign-in at OpenID Connect providers, and the bearer tokens that they issue."""

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import sqlalchemy as sa
import structlog
from msgspec import Struct

from filemill.adapters.postgres import accounts as rows
from filemill.adapters.postgres.connection import in_transaction
from filemill.config.oidc import OidcProvider
from filemill.domain.accounts import ATTEMPT_MAX, PROVIDER_SESSION_MAX, TRIES_PER_ADDRESS
from filemill.domain.federation import (
    account_label,
    account_names,
    claim_values,
    highest_role,
    provider_session,
    unverified_issuer,
)
from filemill.domain.origins import client_key
from filemill.domain.permissions import Principal, RequestSource, Role
from filemill.errors import Unavailable
from filemill.services.accounts import PrincipalCache, Sessions, TooManyTries, session_key
from filemill.services.audit import record

log = structlog.get_logger("federation")

ATTEMPT_BYTES = 32
# Texts of claims that a page shows.
SHOWN_VALUES, SHOWN_CHARACTERS = 10, 60


class IdentityProvider(Protocol):
    """A provider, as `filemill.adapters.oidc` implements it. All methods may raise Unavailable."""

    config: OidcProvider
    label: str

    def authorization_url(self, state: str, nonce: str, verifier: str) -> str:
        """Where a browser signs in."""

    def redeem(self, code: str, verifier: str, nonce: str, issuer: str | None) -> Mapping[str, Any]:
        """The claims about the person who got the code. Raises InvalidToken."""

    def verify_access_token(self, token: str) -> Mapping[str, Any]:
        """The claims of an access token. Raises InvalidToken."""

    def verify_logout_token(self, token: str) -> Mapping[str, Any]:
        """The claims of a logout token. Raises InvalidToken."""

    def end_session_url(self, back_to: str) -> str | None:
        """Where a browser signs out at the provider."""


class SignInRefused(Exception):
    """Somebody cannot sign in. The text says why and what to do; `code` is for programs."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Began(Struct, frozen=True):
    """A sign-in that has begun: where the browser goes, and the secret that it keeps until it returns."""

    url: str
    secret: str


class Federation:
    """Signs people in at providers, and says whose a bearer token is. Any thread."""

    def __init__(
        self,
        engine: sa.Engine,
        sessions: Sessions,
        providers: Mapping[str, IdentityProvider],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._sessions = sessions
        self._providers = providers
        self._bearers = PrincipalCache(clock)

    def labels(self) -> dict[str, str]:
        """What the sign-in page calls each provider."""
        return {name: provider.label for name, provider in self._providers.items()}

    def begin(self, name: str, address: str) -> Began:
        """Begin a sign-in at a provider. Raises SignInRefused, TooManyTries, Unavailable."""
        provider = self._provider(name)
        (tries,) = self._sessions.count_tries([f"begin {client_key(address)}"])
        if tries > TRIES_PER_ADDRESS:
            raise TooManyTries("too many attempts to sign in: try again in a minute")
        secret = secrets.token_urlsafe(ATTEMPT_BYTES)
        url = provider.authorization_url(*(_derived(secret, use) for use in ("state", "nonce", "verifier")))
        in_transaction(
            self._engine, lambda connection: rows.insert_attempt(connection, session_key(secret), name, ATTEMPT_MAX)
        )
        return Began(url, secret)

    def complete(self, name: str, secret: str, answer: Mapping[str, str], source: RequestSource, former: str) -> str:
        """End a sign-in with the provider's answer; returns the secret of a new session.

        `secret` is that of `begin`, `former` that of the browser's former session, which ends. `source` is in the audit
        record of a new account or role. Raises SignInRefused, InvalidToken, Unavailable.
        """
        provider = self._provider(name)
        expected = _derived(secret, "state")
        if not secret or not hmac.compare_digest(answer.get("state", "").encode(), expected.encode()):
            raise SignInRefused(
                "This sign-in did not begin in this browser, or another one began after it. Sign in again.",
                "state_mismatch",
            )
        if not in_transaction(
            self._engine, lambda connection: rows.take_attempt(connection, session_key(secret), name)
        ):
            raise SignInRefused("This sign-in is too old, or was used before. Sign in again.", "state_used")
        if "code" not in answer or "error" in answer:
            log.warning("A provider refused a sign-in", provider=name, error=answer.get("error", "")[:100])
            raise SignInRefused(f"{provider.label} did not sign you in. Sign in again.", "refused_by_provider")
        claims = provider.redeem(
            answer["code"], _derived(secret, "verifier"), _derived(secret, "nonce"), answer.get("iss")
        )
        account = self._account(name, provider, claims, source)
        session = self._sessions.open(
            account.id, source.address, former, PROVIDER_SESSION_MAX, provider_session(claims)
        )
        log.info("Signed in", account=account.name, address=source.address)
        return session

    def bearer(self, token: str, source: RequestSource) -> Principal | None:
        """Whose an access token is; without a role if it gives none; None: the account is disabled.

        `source` is in the audit record of a new account.

        Raises InvalidToken, SignInRefused, Unavailable.
        """
        key = hashlib.sha256(token.encode()).digest()
        return self._bearers.find(key, lambda: self._owner(token, source))

    def sign_out(self, secret: str, back_to: str) -> str | None:
        """End a session; returns where the browser signs out at the provider, if it can be reached."""
        issuer = self._sessions.sign_out(secret)
        for provider in self._providers.values():
            if provider.config.issuer == issuer:
                try:
                    return provider.end_session_url(back_to)
                except Unavailable as error:
                    log.warning("Cannot sign out at a provider", provider=provider.label, error=str(error))
        return None

    def back_channel_logout(self, name: str, token: str) -> int:
        """End the sessions that a provider's logout token names; returns how many.

        Raises SignInRefused, InvalidToken, Unavailable.
        """
        provider = self._provider(name)
        claims = provider.verify_logout_token(token)
        ended = self._sessions.end_of_provider(provider.config.issuer, str(claims["sub"]), provider_session(claims))
        log.info("Signed out by the provider", provider=name, subject=claims["sub"], sessions=ended)
        return ended

    def _provider(self, name: str) -> IdentityProvider:
        found = self._providers.get(name)
        if found is None:
            raise SignInRefused("There is no such provider.", "unknown_provider")
        return found

    def _account(
        self, name: str, provider: IdentityProvider, claims: Mapping[str, Any], source: RequestSource
    ) -> rows.ProviderAccount:
        """The account of somebody who has signed in, with the role of today."""
        config, subject = provider.config, str(claims["sub"])
        values = claim_values(claims, config.roles_claim)
        role = highest_role(values, config.roles, config.default_role)

        def update(connection: sa.Connection) -> rows.ProviderAccount | None:
            known = rows.provider_account(connection, config.issuer, subject)
            if role is None:
                if known is not None:  # a role was taken away: sessions that exist must not outlive it
                    rows.delete_sessions(connection, name=known.name)
                return known
            if known is None:
                known = rows.insert_provider_account(
                    connection, config.issuer, subject, account_names(name, claims), role
                )
                _record_role(connection, known.name, "account.add", role, source)
            elif known.role is not role:
                rows.update_account(connection, known.name, role=role.value)
                _record_role(connection, known.name, "account.role", role, source)
            return known

        account = in_transaction(self._engine, update)
        if account is not None and account.disabled:
            raise SignInRefused(
                f"The account {account.name} is disabled. An admin enables it with filemill users enable.",
                "account_disabled",
            )
        if account is None or role is None:
            raise SignInRefused(_no_role(account_label(claims), provider, values), "no_role")
        return account

    def _owner(self, token: str, source: RequestSource) -> Principal | None:
        name, provider = self._issuer_of(token)
        claims = provider.verify_access_token(token)
        config = provider.config
        values = claim_values(claims, config.roles_claim)
        role = highest_role(values, config.roles, config.default_role)
        if role is None:
            raise SignInRefused(_no_role(account_label(claims), provider, values), "no_role")
        issuer, subject = config.issuer, str(claims["sub"])
        with self._engine.connect() as connection:
            known = rows.provider_account(connection, issuer, subject)
        if known is None:
            given = role

            def insert(connection: sa.Connection) -> rows.ProviderAccount:
                created = rows.insert_provider_account(connection, issuer, subject, account_names(name, claims), given)
                _record_role(connection, created.name, "account.add", given, source)
                return created

            known = in_transaction(self._engine, insert)
        return None if known.disabled else Principal(known.name, role)

    def _issuer_of(self, token: str) -> tuple[str, IdentityProvider]:
        """The provider that the token names. Nothing else of it is used before its signature is verified."""
        issuer = unverified_issuer(token)
        for name, provider in self._providers.items():
            if provider.config.issuer == issuer:
                return name, provider
        raise SignInRefused("the token is not from a known issuer", "unknown_issuer")


def _record_role(connection: sa.Connection, account: str, action: str, role: Role, source: RequestSource) -> None:
    """The account itself is the actor: its provider gave it the role."""
    record(connection, Principal(account, role, source=source), action, {"account": account, "role": role.value})


def _derived(secret: str, use: str) -> str:
    """State, nonce and PKCE verifier of a sign-in: 43 characters, of which nobody can derive another one."""
    digest = hmac.digest(secret.encode(), use.encode(), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _no_role(label: str, provider: IdentityProvider, values: list[str]) -> str:
    shown = ", ".join(ascii(value[:SHOWN_CHARACTERS])[1:-1] for value in values[:SHOWN_VALUES])
    more = f" and {len(values) - SHOWN_VALUES} more" if len(values) > SHOWN_VALUES else ""
    groups = (
        f"The claim {provider.config.roles_claim} has: {shown}{more}"
        if values
        else (f"The claim {provider.config.roles_claim} is missing or empty")
    )
    return (
        f"{label} signed in at {provider.label}, but has no role in filemill. {groups}. An admin gives one of your "
        "groups a role in FILEMILL_OIDC_PROVIDERS."
    )
