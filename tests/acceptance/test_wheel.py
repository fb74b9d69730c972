"""The wheel: it installs next to a team's own packages named workers, dashboard and infra."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = ("filemill", "filemill_workers", "filemill_dashboard", "filemill_infra")
TEAM_PACKAGES = ("workers", "dashboard", "infra")
BUILD_SECONDS = 100


def run(*argv: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        argv,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout with the installed build backend."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps")
    run(*pip, "--no-build-isolation", "--wheel-dir", str(folder), str(CHECKOUT), folder=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel and the team's packages."""
    folder = tmp_path_factory.mktemp("site")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, "--target", str(folder), str(wheel), folder=folder)
    for name in TEAM_PACKAGES:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("OWNER = 'team'\n")
    return folder


def test_the_wheel_has_only_packages_of_filemill(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    folders = {name.split("/")[0] for name in names}
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == set(PACKAGES)
    assert "filemill_infra/embedded/servers/kafka.lock" in names
    assert "filemill_infra/migrations/script.py.mako" in names
    assert any(name.startswith("filemill_dashboard/components/") and name.endswith(".js") for name in names)


def test_filemill_and_a_teams_packages_can_be_imported_together(site: Path) -> None:
    program = (
        "import importlib\n"
        f"for name in {PACKAGES!r}: print(importlib.import_module(name).__file__)\n"
        f"for name in {TEAM_PACKAGES!r}: print(importlib.import_module(name).OWNER)\n"
    )
    printed = run(sys.executable, "-P", "-c", program, folder=site, PYTHONPATH=str(site)).splitlines()
    assert printed[: len(PACKAGES)] == [str(site / name / "__init__.py") for name in PACKAGES]
    assert printed[len(PACKAGES) :] == ["team"] * len(TEAM_PACKAGES)


def test_the_installed_command_prints_its_version(site: Path) -> None:
    program = "import filemill; print(filemill.__version__, filemill.__file__)"
    version, file = run(sys.executable, "-P", "-c", program, folder=site, PYTHONPATH=str(site)).split()
    assert Path(file).is_relative_to(site)
    assert version in run(str(site / "bin" / "filemill"), "--version", folder=site, PYTHONPATH=str(site))
