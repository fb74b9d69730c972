"""The dashboard that commands use through REST instead of the servers. Another set of settings than that of processes.

These settings are of a person or a program, not of the pipeline: they are never passed on to processes of a stack.
"""

import re
from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from filemill.config.oidc import is_secure_url
from filemill.config.secret_files import UnreadableSecret, read_secret
from filemill.config.settings import PREFIX, InvalidSettings
from filemill.domain.origins import has_user_info, parse_origin

VARIABLES = (f"{PREFIX}URL", f"{PREFIX}TOKEN", f"{PREFIX}TOKEN_FILE")
_URL = re.compile(r"(https?://[^/?#\s]+)(/[^?#\s]*)?", re.IGNORECASE)
# What an HTTP header can carry.
_TOKEN = re.compile(r"[!-~]{1,8192}")


class RestServer(BaseSettings):
    """The address of a dashboard, and the token with which it knows the person or the program. Field `x`: FILEMILL_X.

    `url` may have a path, if a reverse proxy adds one. `token` counts more than `token_file`.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, env_ignore_empty=True)

    url: str = ""
    token: SecretStr = SecretStr("")
    token_file: Path | None = None

    @property
    def secret(self) -> str:
        """The token; empty: none."""
        return self.token.get_secret_value()


def load_rest_server() -> RestServer | None:
    """The dashboard that the environment names; None: commands use the servers. Raises InvalidSettings.

    A token is sent to https:// addresses only, or to this machine: on the way to any other it could be read.
    """
    found = RestServer()
    if not found.url:
        return None
    _check_url(found.url)
    secret = found.secret
    if not secret and found.token_file is not None:
        try:
            secret = read_secret(found.token_file)
        except UnreadableSecret as error:
            raise InvalidSettings(f"{PREFIX}TOKEN_FILE: {error}", "unreadable_secret") from None
    if secret and _TOKEN.fullmatch(secret) is None:
        raise InvalidSettings(f"{PREFIX}TOKEN must be printable ASCII characters without blanks", "token_invalid")
    if secret and not is_secure_url(found.url):
        reason = "its address must begin with https://, because others could read the token on its way"
        raise InvalidSettings(f"{PREFIX}URL: {reason}; http:// is for this machine only", "url_insecure")
    return found.model_copy(update={"url": found.url.rstrip("/"), "token": SecretStr(secret)})


def _check_url(url: str) -> None:
    """Raises InvalidSettings. The text does not quote the address, which may contain a secret."""
    found = _URL.fullmatch(url)
    if has_user_info(url):
        problem = f"must not contain a user name, a password or a token: use {PREFIX}TOKEN or {PREFIX}TOKEN_FILE"
    elif found is None or parse_origin(found[1]) is None:
        problem = "must be an address such as https://filemill.example, without a query"
    else:
        return
    raise InvalidSettings(f"{PREFIX}URL {problem}", "url_invalid")
