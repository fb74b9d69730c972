"""The settings of one OpenID Connect provider, an entry of `oidc_providers`."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from filemill.config.secret_files import read_secret
from filemill.domain.origins import has_user_info, is_loopback_name, parse_origin
from filemill.domain.permissions import Role

# The name of a provider is part of URLs and of the names of its people.
PROVIDER_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
# Signatures by a private key of the provider. HMAC (HS256 …) and `none` are never accepted.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


class OidcProvider(BaseModel):
    """An OpenID Connect provider, and what its people may do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: str = Field(max_length=255)
    client_id: str = Field(min_length=1, max_length=255)
    client_secret: SecretStr = SecretStr("")
    client_secret_file: Path | None = None
    name: str = Field(default="", max_length=64)
    scopes: list[str] = Field(default=["openid", "profile", "email"], max_length=20)
    roles_claim: str = Field(default="groups", min_length=1, max_length=255)
    roles: dict[str, Role] = {}
    default_role: Role | None = None
    api_audience: str = Field(default="", max_length=255)
    algorithms: list[Algorithm] = Field(default=["RS256", "PS256", "ES256", "EdDSA"], min_length=1)
    ca_bundle: Path | None = None

    @field_validator("issuer")
    @classmethod
    def _issuer(cls, value: str) -> str:
        if has_user_info(value):
            raise ValueError("issuer must not contain a user name or a password")
        if not is_secure_url(value) or "?" in value or "#" in value:
            raise ValueError("issuer must be an https:// URL without query; http:// is for loopback addresses only")
        return value

    @field_validator("scopes")
    @classmethod
    def _scopes(cls, value: list[str]) -> list[str]:
        if "openid" not in value:
            raise ValueError("scopes must contain openid")
        return value

    @field_validator("ca_bundle")
    @classmethod
    def _ca_bundle(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"there is no file {value}")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.client_secret_file is not None:
            if self.client_secret.get_secret_value():
                raise ValueError("use client_secret or client_secret_file, not both")
            read_secret(self.client_secret_file)
        if self.api_audience == self.client_id:
            # ID tokens have the client id as their audience: they would be accepted as access tokens.
            raise ValueError("api_audience must differ from client_id")
        return self

    @property
    def secret(self) -> str:
        """The client secret; empty for a public client. Raises UnreadableSecret."""
        return (
            read_secret(self.client_secret_file) if self.client_secret_file else self.client_secret.get_secret_value()
        )


def is_secure_url(url: str) -> bool:
    """Whether it is an https:// URL, or http:// to a loopback address."""
    scheme, separator, rest = url.partition("://")
    origin = parse_origin(f"{scheme}://{re.split(r'[/?#]', rest, maxsplit=1)[0]}") if separator else None
    return origin is not None and url.isprintable() and (origin.scheme == "https" or is_loopback_name(origin.host))
