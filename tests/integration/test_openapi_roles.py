"""REST conforms to its OpenAPI document for each role, and shows nobody the files of others who may not see them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.outbox import insert_many
from filemill.adapters.postgres.tables import File
from filemill.config.settings import Settings
from filemill.domain.files import NewFile
from filemill.domain.permissions import Role
from filemill.services.accounts import Accounts
from filemill.services.tokens import Tokens
from tests.integration import no_data_of_others
from tests.integration.no_data_of_others import MARKER, SEEN
from tests.integration.test_openapi import SEED
from tests.integration.test_rest_process import dashboard
from tests.principals import TEST

EXAMPLES = "5"
RUN_SECONDS = 240
# More files than the small numbers that schemathesis likes, so that many requests name a file of somebody else.
FILES = 40
# Only valid requests: invalid ones are those of test_openapi.py, and are refused for each role alike. That test also
# has the check that is left out here; an unknown queue is refused, and the document cannot say which ones exist.
OPTIONS = [
    *("--mode", "positive", "--exclude-checks", "positive_data_acceptance"),
    *("--seed", SEED, "--max-examples", EXAMPLES, "--phases", "coverage,fuzzing", "--generation-database", "none"),
    *("--request-timeout", "30", "--suppress-health-check", "all", "--no-color", "--continue-on-failure"),
    *("--warnings", "off", "--no-shrink"),
]
OTHER = "oscar"


class Site(NamedTuple):
    """REST at `url`, and the token of each role."""

    url: str
    tokens: dict[Role, str]
    config: Path


@pytest.fixture
def site(settings: Settings, engine: sa.Engine, tmp_path: Path) -> Iterator[Site]:
    accounts, tokens = Accounts(engine), Tokens(engine)
    made = {}
    for role in Role:
        accounts.add(f"person-{role}", role, "correct horse battery", TEST)
        made[role] = tokens.create("test", role, TEST, owner=f"person-{role}").secret
    accounts.add(OTHER, Role.SUBMITTER, "correct horse battery", TEST)
    # The first files of the database: their ids are 1 to FILES.
    secret = NewFile(f"{MARKER} title", f"{MARKER} description")
    with engine.begin() as connection:
        ids = insert_many(connection, [secret] * FILES, OTHER)
        for status in ("completed", "failed", "processing"):
            some = [ids.pop() for _ in range(FILES // 4)]
            connection.execute(sa.update(File).where(File.id.in_(some)).values(status=status, error=f"{MARKER} error"))
    config = tmp_path / "schemathesis.toml"
    config.write_text(f'hooks = "{no_data_of_others.__name__}"\n')
    protected = settings.model_copy(update={"auth": "accounts", "own_files_only": True})
    with dashboard(protected, tmp_path, seconds=RUN_SECONDS) as (_process, url):
        yield Site(url, made, config)


def run_as(site: Site, role: Role) -> list[str]:
    """Run schemathesis with the token of a role; returns the requests whose responses had the marker."""
    seen = site.config.with_name(f"{role}.seen")
    header = f"Authorization: Bearer {site.tokens[role]}"
    program = str(Path(sys.executable).with_name("schemathesis"))
    arguments = ["--config-file", str(site.config), "run", f"{site.url}/api/openapi.json", "-H", header]
    environment = {**os.environ, SEEN: str(seen), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [program, *arguments, *OPTIONS],
        cwd=seen.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"as {role}: {done.stdout[-20_000:]}{done.stderr[-2_000:]}"
    return seen.read_text().splitlines() if seen.exists() else []


def others(engine: sa.Engine) -> list[sa.Row[tuple[int, str, int]]]:
    """What nobody but operators and admins may change."""
    with engine.connect() as connection:
        return list(connection.execute(sa.select(File.id, File.status, File.run).where(File.owner == OTHER)))


@pytest.mark.timeout(300)
def test_rest_conforms_to_its_document_for_each_role_and_hides_the_files_of_others(
    site: Site, engine: sa.Engine
) -> None:
    before = others(engine)
    assert len(before) == FILES
    for role in Role:  # viewers first: operators and admins change the files
        seen = run_as(site, role)
        if role in {Role.VIEWER, Role.SUBMITTER}:
            assert seen == [], role
            assert others(engine) == before, role
        else:
            assert seen, "the check does not see what operators may see"
