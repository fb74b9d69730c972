"""Hides the process's environment from the drivers: clients are configured by `Settings` alone.

Arguments do this for boto3 and httpx, but not for libpq and obstore: their native code reads every value that no
argument sets from the environment (docs/decisions/0028-clients-are-configured-by-settings-alone.md).
"""

import contextlib
import os
import threading
from collections.abc import Iterator

import psycopg

# Read by libpq in addition to the variables of its parameters.
_LIBPQ_EXTRA = ("PGDATESTYLE", "PGGEQO", "PGLOCALEDIR", "PGSERVICE", "PGSERVICEFILE", "PGSYSCONFDIR", "PGTZ")
# Always set by arguments for obstore; `Settings` may be reading them on another thread.
_ALWAYS_SET = frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"})
_PROXIES = frozenset({"ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "REQUEST_METHOD"})
_CERTIFICATES = frozenset({"SSL_CERT_DIR", "SSL_CERT_FILE"})

_lock = threading.Lock()


def forget_libpq_variables() -> None:
    """Remove libpq's variables from the process's environment for good: every new connection would read them."""
    names = {option.envvar.decode() for option in psycopg.pq.Conninfo.get_defaults() if option.envvar}
    for name in (*names, *_LIBPQ_EXTRA):
        os.environ.pop(name, None)


@contextlib.contextmanager
def without_s3_variables(*, certificates: bool) -> Iterator[None]:
    """Hide obstore's variables while a client is created; it reads nothing later.

    `certificates`: hide the location of the system's certificates, too.
    """
    with _lock:
        hidden = {name: os.environ.pop(name) for name in list(os.environ) if _is_read_by_obstore(name, certificates)}
        try:
            yield
        finally:
            os.environ.update(hidden)


def _is_read_by_obstore(name: str, certificates: bool) -> bool:
    upper = name.upper()
    if upper.startswith("AWS_"):
        return upper not in _ALWAYS_SET
    return upper in _PROXIES or (certificates and upper in _CERTIFICATES)
