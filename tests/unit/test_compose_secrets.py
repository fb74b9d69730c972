"""The secrets of a composed stack: created once, readable by their services, replaced by values of .env."""

import os
from pathlib import Path

import pytest

from filemill.config.settings import load
from filemill_infra import compose_secrets
from filemill_infra.compose_secrets import credentials_from, write_secrets


@pytest.fixture(autouse=True)
def _own_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use groups of this process, because only they can be set."""
    files = tuple(
        (name, field, None if group is None else os.getgid()) for name, field, group in compose_secrets._FILES
    )
    monkeypatch.setattr(compose_secrets, "_FILES", files)
    monkeypatch.setattr(compose_secrets, "POSTGRES_GROUP", os.getgid())
    monkeypatch.setattr(compose_secrets, "SEAWEED_GROUP", os.getgid())


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_secrets_are_created_once_and_differ_between_stacks(tmp_path: Path) -> None:
    assert len(write_secrets(tmp_path / "one", {})) == 11
    first = contents(tmp_path / "one")
    assert write_secrets(tmp_path / "one", {}) == []
    assert contents(tmp_path / "one") == first
    write_secrets(tmp_path / "other", {})
    other = contents(tmp_path / "other")
    assert [name for name in first if first[name] == other[name]] == []


def test_missing_secrets_are_created_and_the_others_kept(tmp_path: Path) -> None:
    write_secrets(tmp_path, {})
    before = contents(tmp_path)
    (tmp_path / "s3-security" / "security.toml").unlink()
    (tmp_path / "database" / "reader_password").unlink()
    write_secrets(tmp_path, {})
    changed = {name for name, content in contents(tmp_path).items() if content != before[name]}
    assert changed == {
        "database/reader_password",
        *(f"s3-security/{name}" for name in ("ca.pem", "certificate.pem", "key.pem", "security.toml")),
    }


def test_the_keys_that_all_roles_share_are_left_out_on_request(tmp_path: Path) -> None:
    written = write_secrets(tmp_path, {"s3_access_key_id": "given"}, s3_keys=False)
    assert not [name for name in written if name.startswith("s3-keys/")]
    assert not (tmp_path / "s3-keys").exists()


def test_given_secrets_replace_random_ones_and_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_secrets(tmp_path, {})
    monkeypatch.setenv("FILEMILL_DATABASE_PASSWORD", "chosen")
    monkeypatch.setenv("FILEMILL_AWS_ACCESS_KEY_ID", "")
    assert write_secrets(tmp_path, credentials_from(load())) == ["database/password"]
    assert write_secrets(tmp_path, {}) == []
    assert (tmp_path / "database" / "password").read_bytes() == b"chosen"


def test_only_their_services_can_read_the_files(tmp_path: Path) -> None:
    write_secrets(tmp_path, {})
    modes = {str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*/*")}
    assert {name for name, mode in modes.items() if mode == 0o400} == {
        *("database-admin/owner_password", "database/password", "database/reader_password"),
    }
    assert set(modes.values()) == {0o400, 0o440}


def test_the_superusers_statements_contain_its_password(tmp_path: Path) -> None:
    write_secrets(tmp_path, {})
    password = (tmp_path / "database-admin" / "superuser_password").read_text()
    *_, last = (tmp_path / "database-admin" / "superuser.sql").read_text().splitlines()
    assert last == f"ALTER ROLE filemill_superuser PASSWORD '{password}';"
