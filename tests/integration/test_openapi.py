"""REST conforms to its OpenAPI document: schemathesis tests a real dashboard against it, for about a minute."""

import subprocess
import sys
from pathlib import Path

import pytest

from filemill.config.settings import Settings
from tests.integration.test_rest_process import dashboard

SEED = "17"
EXAMPLES = "15"
RUN_SECONDS = 270
OPTIONS = [
    *("--seed", SEED, "--max-examples", EXAMPLES, "--phases", "examples,coverage,fuzzing"),
    *("--generation-database", "none", "--request-timeout", "30", "--suppress-health-check", "all", "--no-color"),
    *("--continue-on-failure", "--warnings", "off"),
]
# The document cannot say which handlers and queues exist. An unknown one is refused with 422, which names the field.
CONFIG = """
[[operations]]
include-name = "POST /api/files"
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "422", "429", "5xx"]
"""


@pytest.mark.timeout(300)
def test_the_dashboard_conforms_to_its_openapi_document(settings: Settings, tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    with dashboard(settings, tmp_path, seconds=RUN_SECONDS) as (_process, url):
        command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/api/openapi.json", *OPTIONS]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
