"""One OpenID Connect provider: where it is, its keys, the code flow, and the tokens that it signed."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import msgspec
from authlib.integrations.base_client import OAuthError
from authlib.oauth2.base import OAuth2Error
from authlib.oauth2.client import OAuth2Client
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import BadSignatureError, InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from filemill.adapters.oidc.http import ProviderHttp
from filemill.config.oidc import OidcProvider, is_secure_url
from filemill.domain.federation import SUBJECT_MAX_CHARACTERS
from filemill.errors import InvalidToken, Unavailable

# How much the clocks of the provider and of this machine may differ.
LEEWAY_SECONDS = 120
TOKEN_MAX_BYTES = 64 * 1024
METADATA_SECONDS = 3600.0
# Keys that the provider has removed are refused after this time; if it is unreachable, after the longer one.
KEYS_SECONDS = 600.0
KEYS_OUTAGE_SECONDS = 86_400.0
# Tokens with unknown keys make us read the keys again, but not more often than this.
KEYS_MIN_SECONDS = 10.0
DISCOVERY = "/.well-known/openid-configuration"
KEY_TYPES = frozenset({"RSA", "EC", "OKP"})
# Of access tokens, RFC 9068; many providers use the general type.
ACCESS_TOKEN_TYPES = frozenset({"", "jwt", "at+jwt", "application/at+jwt"})


# Of back-channel logout; older providers use the general type.
LOGOUT_TOKEN_TYPES = frozenset({"", "jwt", "logout+jwt", "application/logout+jwt"})
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"


class Metadata(msgspec.Struct, frozen=True):
    """What the provider says about itself."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    end_session_endpoint: str | None = None
    token_endpoint_auth_methods_supported: list[str] = []
    authorization_response_iss_parameter_supported: bool = False


class OidcClient:
    """A client of one provider. Any thread. All methods but the constructor may raise Unavailable."""

    def __init__(
        self,
        name: str,
        config: OidcProvider,
        redirect_uri: str,
        timeout_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.label = config.name or name
        self._redirect_uri = redirect_uri
        self._http = ProviderHttp(self.label, config.ca_bundle, timeout_seconds)
        self._clock = clock
        self._lock = threading.Lock()
        self._metadata: tuple[Metadata, float] | None = None
        self._keys: tuple[KeySet, float] | None = None
        self._keys_retry_at = 0.0
        # The header of a token may hold a chain of certificates, which is not used.
        self._registry = JWSRegistry(algorithms=list(config.algorithms), strict_check_header=False)
        self._registry.max_header_length = 4096
        self._registry.max_payload_length = TOKEN_MAX_BYTES

    def metadata(self, max_age_seconds: float = METADATA_SECONDS) -> Metadata:
        """The provider's metadata. Raises Unavailable."""
        known = self._metadata
        if known is not None and self._clock() - known[1] < max_age_seconds:
            return known[0]
        url = self.config.issuer.rstrip("/") + DISCOVERY
        try:
            found = msgspec.convert(self._http.get_json(url), Metadata)
        except msgspec.ValidationError as error:
            raise self._misconfigured(f"its metadata at {url} is not valid: {error}") from None
        if found.issuer != self.config.issuer:
            raise self._misconfigured(f"its metadata names the issuer {found.issuer[:255]!a}")
        endpoints = [found.authorization_endpoint, found.token_endpoint, found.jwks_uri, found.end_session_endpoint]
        if not all(is_secure_url(endpoint) for endpoint in endpoints if endpoint is not None):
            raise self._misconfigured("an address in its metadata is not an https:// URL")
        self._metadata = (found, self._clock())
        return found

    def authorization_url(self, state: str, nonce: str, verifier: str) -> str:
        """Where a browser signs in. The metadata is read each time: it shows whether the provider is reachable."""
        url: str
        url, _ = self._client(self.metadata(0)).create_authorization_url(
            self.metadata().authorization_endpoint, state=state, nonce=nonce, code_verifier=verifier
        )
        return url

    def redeem(self, code: str, verifier: str, nonce: str, issuer: str | None) -> Mapping[str, Any]:
        """Exchange a code; returns the claims of the ID token. `issuer`: as in the response. Raises InvalidToken."""
        metadata = self.metadata()
        if issuer is None and metadata.authorization_response_iss_parameter_supported:
            raise InvalidToken("the response does not name its issuer")
        if issuer is not None and issuer != metadata.issuer:
            raise InvalidToken("the response is from another issuer")
        client = self._client(metadata)
        try:
            answer = client.fetch_token(
                metadata.token_endpoint,
                grant_type="authorization_code",
                code=code,
                code_verifier=verifier,
                redirect_uri=self._redirect_uri,
            )
        except (OAuth2Error, OAuthError) as error:
            raise InvalidToken(f"the provider refused the code ({str(error.error)[:100]!a})") from None
        except ValueError as error:
            raise InvalidToken(f"the provider's response to the code is not valid: {error}") from None
        token, access_token = answer.get("id_token"), answer.get("access_token")
        if not isinstance(token, str):
            raise InvalidToken("the provider sent no ID token")
        # The token came from the provider itself, so an unknown key is a new one.
        decoded = self._decode(token, 0)
        params = {"nonce": nonce, "client_id": self.config.client_id, "access_token": access_token}
        return self._checked(CodeIDToken(decoded.claims, decoded.header, self._options(self.config.client_id), params))

    def verify_access_token(self, token: str) -> Mapping[str, Any]:
        """The claims of an access token for our API. Raises InvalidToken."""
        if not self.config.api_audience:
            raise InvalidToken(f"bearer tokens of {self.label} are not accepted: its api_audience is not set")
        decoded = self._decode(token, KEYS_MIN_SECONDS)
        if str(decoded.header.get("typ", "")).lower() not in ACCESS_TOKEN_TYPES:
            raise InvalidToken("the token is not an access token")
        claims = CodeIDToken(decoded.claims, decoded.header, self._options(self.config.api_audience))
        return self._checked(claims)

    def verify_logout_token(self, token: str) -> Mapping[str, Any]:
        """The claims of a logout token for us (OpenID Connect Back-Channel Logout 1.0). Raises InvalidToken."""
        decoded = self._decode(token, KEYS_MIN_SECONDS)
        if str(decoded.header.get("typ", "")).lower() not in LOGOUT_TOKEN_TYPES:
            raise InvalidToken("the token is not a logout token")
        claims = self._checked(CodeIDToken(decoded.claims, decoded.header, self._options(self.config.client_id)))
        events = claims.get("events")
        # An ID token has a nonce and no events.
        if "nonce" in claims or not isinstance(events, dict) or not isinstance(events.get(LOGOUT_EVENT), dict):
            raise InvalidToken("the token is not a logout token")
        return claims

    def end_session_url(self, back_to: str) -> str | None:
        """Where a browser signs out at the provider; None: the provider has no such address.

        As for a sign-in, the metadata is read each time: a browser must not be led to a provider that is unreachable.
        """
        endpoint = self.metadata(0).end_session_endpoint
        if endpoint is None:
            return None
        values = {"client_id": self.config.client_id, "post_logout_redirect_uri": back_to}
        return str(httpx.URL(endpoint).copy_merge_params(values))

    def _client(self, metadata: Metadata) -> Any:  # noqa: ANN401 - Authlib has no types
        methods, secret = metadata.token_endpoint_auth_methods_supported, self.config.secret
        posts = "client_secret_post" in methods and "client_secret_basic" not in methods
        return OAuth2Client(
            self._http,
            client_id=self.config.client_id,
            client_secret=secret,
            scope=" ".join(self.config.scopes),
            redirect_uri=self._redirect_uri,
            code_challenge_method="S256",
            token_endpoint_auth_method=("client_secret_post" if posts else None) if secret else "none",
        )

    def _decode(self, token: str, keys_min_seconds: float) -> jwt.Token:
        if len(token) > TOKEN_MAX_BYTES:
            raise InvalidToken(
                f"the token has {len(token)} characters, of at most {TOKEN_MAX_BYTES}: let the provider leave out "
                "claims or groups"
            )
        try:
            return self._decode_with(token, self._current_keys(KEYS_SECONDS))
        except (JoseError, ValueError, RecursionError) as error:
            reason: Exception = error
            if _is_signed_by_unknown_key(error):
                # The provider may have changed its keys since they were read.
                try:
                    return self._decode_with(token, self._current_keys(keys_min_seconds))
                except (JoseError, ValueError, RecursionError) as again:
                    reason = again
            raise InvalidToken(f"the token's signature or form is not valid: {reason}") from None

    def _decode_with(self, token: str, keys: KeySet) -> jwt.Token:
        return jwt.decode(token, keys, algorithms=list(self.config.algorithms), registry=self._registry)

    def _current_keys(self, max_age_seconds: float) -> KeySet:
        known = self._keys
        if known is not None and self._clock() - known[1] < max_age_seconds:
            return known[0]
        with self._lock:
            if self._keys is not known and self._keys is not None:  # another thread has read them
                return self._keys[0]
            usable = known if known is not None and self._clock() - known[1] < KEYS_OUTAGE_SECONDS else None
            if usable is not None and self._clock() < self._keys_retry_at:
                return usable[0]
            try:
                found = self._read_keys()
            except Unavailable:
                self._keys_retry_at = self._clock() + KEYS_MIN_SECONDS
                if usable is not None:
                    return usable[0]
                raise
            self._keys = (found, self._clock())
            return found

    def _read_keys(self) -> KeySet:
        document = self._http.get_json(self.metadata().jwks_uri)
        entries = document.get("keys") if isinstance(document, dict) else None
        usable = [
            {name: value for name, value in entry.items() if name != "d"}
            for entry in (entries if isinstance(entries, list) else [])
            if isinstance(entry, dict) and entry.get("kty") in KEY_TYPES and entry.get("use", "sig") == "sig"
        ]
        try:
            return KeySet.import_key_set({"keys": usable})
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise self._misconfigured(f"its keys are not valid: {error}") from None

    def _options(self, audience: str) -> dict[str, Any]:
        return {
            "iss": {"essential": True, "value": self.config.issuer},
            "aud": {"essential": True, "value": audience},
            "sub": {"essential": True},
        }

    def _checked(self, claims: Any) -> Mapping[str, Any]:  # noqa: ANN401 - Authlib has no types
        try:
            claims.validate(leeway=LEEWAY_SECONDS)
        except (JoseError, ValueError, TypeError) as error:
            raise InvalidToken(f"a claim of the token is not valid: {error}") from None
        subject = claims["sub"]
        if not subject.isprintable() or len(subject) > SUBJECT_MAX_CHARACTERS:
            raise InvalidToken("the token's subject is not valid")
        found: Mapping[str, Any] = dict(claims)
        return found

    def _misconfigured(self, problem: str) -> Unavailable:
        return Unavailable(
            f"{self.label} cannot be used: {problem}",
            "An admin corrects FILEMILL_OIDC_PROVIDERS or the provider",
            code="provider-misconfigured",
        )


def _is_signed_by_unknown_key(error: Exception) -> bool:
    return isinstance(error, InvalidKeyIdError | BadSignatureError)
