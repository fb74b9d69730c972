"""The credentials of a home."""

import stat
from pathlib import Path

import msgspec
import pytest

from filemill_infra.embedded.credentials import CREDENTIALS_FILE, credentials_of
from filemill_infra.embedded.errors import HomeError


def test_each_home_has_its_own_random_private_credentials(tmp_path: Path) -> None:
    homes = [tmp_path / "a", tmp_path / "b"]
    for home in homes:
        home.mkdir()
    first, other = (credentials_of(home) for home in homes)
    assert credentials_of(homes[0]) == first
    assert stat.S_IMODE((homes[0] / CREDENTIALS_FILE).stat().st_mode) == 0o600
    values = [*msgspec.structs.astuple(first), *msgspec.structs.astuple(other)]
    assert len(set(values)) == len(values)
    assert min(map(len, values)) >= 20


def test_reference_credentials_are_used_on_request_and_not_stored(tmp_path: Path) -> None:
    own = credentials_of(tmp_path)
    reference = credentials_of(tmp_path, reference=True)
    assert (reference.s3_access_key_id, reference.s3_secret_access_key) == ("test", "test")
    assert reference.database_password == "filepass"
    assert reference.database_superuser_password == own.database_superuser_password
    assert credentials_of(tmp_path) == own


def test_missing_credentials_of_an_older_file_are_created_and_the_others_kept(tmp_path: Path) -> None:
    (tmp_path / CREDENTIALS_FILE).write_text('{"s3_access_key_id": "kept"}')
    found = credentials_of(tmp_path)
    assert found.s3_access_key_id == "kept"
    assert credentials_of(tmp_path) == found


def test_an_invalid_file_is_an_error_that_does_not_show_its_content(tmp_path: Path) -> None:
    (tmp_path / CREDENTIALS_FILE).write_text('{"database_password": 12345')
    with pytest.raises(HomeError, match=CREDENTIALS_FILE) as caught:
        credentials_of(tmp_path)
    assert "12345" not in str(caught.value)
