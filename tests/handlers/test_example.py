"""The example in `examples/invoices`: installed as a package, found by its entry point, tried, and tested."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "invoices"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed package."""
    folder = tmp_path_factory.mktemp("installed")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", folder / "site", EXAMPLE],
        check=True,
        timeout=100,
    )
    return folder


def filemill(installed: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "filemill", "handlers", *arguments],
        env={**os.environ, "PYTHONPATH": str(installed / "site"), **environment},
        cwd=installed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_examples_own_tests_pass(installed: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, EXAMPLE / "tests"],
        env={**os.environ, "PYTHONPATH": str(installed / "site")},
        cwd=installed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert "3 passed" in run.stdout


def test_the_handler_is_found_shown_and_tried(installed: Path) -> None:
    listed = filemill(installed, "list")
    assert "invoice " in listed.stdout, listed.stderr
    spec = msgspec.json.decode(filemill(installed, "show", "invoice").stdout)
    assert spec["extension"] == "pdf"
    assert spec["schema"]["$defs"]["Invoice"]["required"] == ["number", "customer", "lines"]
    tried = filemill(installed, "try", "invoice", "--parameters", str(EXAMPLE / "invoice.json"))
    assert tried.returncode == 0, tried.stderr
    assert "invoice 2026-17: 2 lines" in tried.stderr
    assert "page 1 of 1" in tried.stderr
    body = (installed / "invoice.pdf").read_bytes()
    assert body.startswith(b"%PDF-1.4")
    assert b"29.00" in body


def test_a_try_reports_a_failure_with_its_reason(installed: Path) -> None:
    (installed / "empty.json").write_text('{"number": "1", "customer": "Ada", "lines": []}')
    tried = filemill(installed, "try", "invoice", "--parameters", str(installed / "empty.json"), "--output", "no.pdf")
    assert tried.returncode == 1
    assert "invoice 1 has no lines" in tried.stderr
    assert not (installed / "no.pdf").exists()


def test_a_try_refuses_what_a_request_would_be_refused_for(installed: Path) -> None:
    wrong = {"number": "1", "customer": "Ada", "lines": [{"text": "Ink", "quantity": 1, "price": 4.5}]}
    (installed / "wrong.json").write_bytes(msgspec.json.encode(wrong))
    tried = filemill(installed, "try", "invoice", "--parameters", str(installed / "wrong.json"))
    assert tried.returncode == 2
    assert "$.parameters.lines[0].price: 4.5 is not of type" in tried.stderr.replace("\n", " ")


def test_a_module_that_cannot_be_imported_is_a_usage_error(installed: Path) -> None:
    listed = filemill(installed, "list", FILEMILL_HANDLERS="workers.missing")
    assert listed.returncode == 2
    assert 'The handlers of the module "workers.missing" cannot be imported' in listed.stderr
    assert filemill(installed, "show", "missing").returncode == 2


def test_a_processor_with_a_broken_handler_does_not_start(installed: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "filemill", "run", "processor"],
        env={**os.environ, "FILEMILL_HANDLERS": "workers.missing"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 2
    assert '"workers.missing" cannot be imported' in run.stderr
