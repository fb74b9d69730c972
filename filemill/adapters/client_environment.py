"""The environment of the process is kept from the drivers: a client gets all it needs from `Settings`.

boto3 and httpx can be told so with arguments. libpq and obstore cannot: they read variables in native code, and what
an argument does not name, they take from there (docs/decisions/0028-clients-are-configured-by-settings-alone.md).
"""

import contextlib
import os
import threading
from collections.abc import Iterator

import psycopg

# Read by libpq beside the variables of its parameters.
_LIBPQ_MORE = ("PGDATESTYLE", "PGGEQO", "PGLOCALEDIR", "PGSERVICE", "PGSERVICEFILE", "PGSYSCONFDIR", "PGTZ")
# What obstore is always told by arguments, and `Settings` may be reading on another thread.
_TOLD = frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"})
_PROXIES = frozenset({"ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "REQUEST_METHOD"})
_CERTIFICATES = frozenset({"SSL_CERT_DIR", "SSL_CERT_FILE"})

_lock = threading.Lock()


def forget_libpq_variables() -> None:
    """Remove from the process's environment what libpq would read, for good: each connection would read it again."""
    names = {option.envvar.decode() for option in psycopg.pq.Conninfo.get_defaults() if option.envvar}
    for name in (*names, *_LIBPQ_MORE):
        os.environ.pop(name, None)


@contextlib.contextmanager
def without_s3_variables(*, certificates: bool) -> Iterator[None]:
    """Hide, for the time in which a client of obstore's is made, what it would read; it reads nothing later.

    `certificates`: hide also where the system's certificates are.
    """
    with _lock:
        hidden = {name: os.environ.pop(name) for name in list(os.environ) if _steers_obstore(name, certificates)}
        try:
            yield
        finally:
            os.environ.update(hidden)


def _steers_obstore(name: str, certificates: bool) -> bool:
    upper = name.upper()
    if upper.startswith("AWS_"):
        return upper not in _TOLD
    return upper in _PROXIES or (certificates and upper in _CERTIFICATES)
