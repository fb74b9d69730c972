"""libpq gets all parameters, so that it reads neither the environment nor the home folder."""

import os
from pathlib import Path

import psycopg
import pytest

from filemill.adapters.client_environment import forget_libpq_variables
from filemill.adapters.postgres.connection import NO_FILE, libpq_parameters
from filemill.config.settings import InvalidSettings, load


def test_libpq_variables_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [option.envvar.decode() for option in psycopg.pq.Conninfo.get_defaults() if option.envvar]
    assert len(known) > 30
    for name in (*known, "PGTZ", "PGSERVICE", "PGSERVICEFILE"):
        monkeypatch.setenv(name, "theirs")
    forget_libpq_variables()
    assert not [name for name in os.environ if name.startswith("PG")]


def test_no_files_of_the_home_folder_are_read() -> None:
    parameters = libpq_parameters(load())
    assert {parameters[name] for name in ("passfile", "sslcert", "sslcrl", "sslrootcert")} == {NO_FILE}
    assert not Path(NO_FILE).exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("prefer", NO_FILE)),
        ({"database_sslmode": "require"}, ("require", NO_FILE)),
        ({"database_sslmode": "verify-full"}, ("verify-full", "system")),
        ({"database_sslmode": "verify-full", "database_ca_bundle": __file__}, ("verify-full", __file__)),
        ({"database_sslmode": "verify-ca", "database_ca_bundle": __file__}, ("verify-ca", __file__)),
    ],
)
def test_the_trusted_certificates_are_a_setting(given: dict[str, str], expected: tuple[str, str]) -> None:
    found = libpq_parameters(load(**given))
    assert (found["sslmode"], found["sslrootcert"]) == expected


def test_certificate_verification_needs_a_certificate_bundle() -> None:
    with pytest.raises(InvalidSettings, match="database_ca_bundle"):
        load(database_sslmode="verify-ca")
