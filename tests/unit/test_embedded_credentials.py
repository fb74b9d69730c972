"""Passwords and keys of a home."""

import stat
from pathlib import Path

import msgspec
import pytest

from filemill_infra.embedded.credentials import CREDENTIALS_FILE, credentials_of
from filemill_infra.embedded.errors import HomeError


def test_credentials_are_drawn_once_for_each_home_and_only_its_owner_reads_them(tmp_path: Path) -> None:
    homes = [tmp_path / "a", tmp_path / "b"]
    for home in homes:
        home.mkdir()
    first, other = (credentials_of(home) for home in homes)
    assert credentials_of(homes[0]) == first
    assert stat.S_IMODE((homes[0] / CREDENTIALS_FILE).stat().st_mode) == 0o600
    values = [*msgspec.structs.astuple(first), *msgspec.structs.astuple(other)]
    assert len(set(values)) == len(values)
    assert min(map(len, values)) >= 20


def test_the_references_credentials_are_used_only_where_asked_for_and_not_stored(tmp_path: Path) -> None:
    own = credentials_of(tmp_path)
    asked = credentials_of(tmp_path, reference=True)
    assert (asked.s3_access_key_id, asked.s3_secret_access_key, asked.database_password) == ("test", "test", "filepass")
    assert asked.database_superuser_password == own.database_superuser_password
    assert credentials_of(tmp_path) == own


def test_what_an_older_file_lacks_is_drawn_and_the_rest_is_kept(tmp_path: Path) -> None:
    (tmp_path / CREDENTIALS_FILE).write_text('{"s3_access_key_id": "kept"}')
    found = credentials_of(tmp_path)
    assert found.s3_access_key_id == "kept"
    assert credentials_of(tmp_path) == found


def test_a_file_that_is_not_credentials_is_an_error_that_names_it_and_shows_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / CREDENTIALS_FILE).write_text('{"database_password": 12345')
    with pytest.raises(HomeError, match=CREDENTIALS_FILE) as caught:
        credentials_of(tmp_path)
    assert "12345" not in str(caught.value)
