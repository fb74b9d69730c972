"""Images and stacks for the tests of Compose."""

from collections.abc import Iterator

import pytest

from filemill_infra.compose import FILES, HA_FILES, SECURE_FILES
from tests.compose.stack import Stack, composed
from tests.containers.engine import Engine, NoEngine, skip_or_fail
from tests.containers.images import filemill_image, server_images


@pytest.fixture(scope="session")
def image(docker_engine: Engine) -> str:
    """The project's image; the servers' images are built as well."""
    try:
        server_images(docker_engine)
        return filemill_image(docker_engine)
    except NoEngine as reason:
        skip_or_fail(str(reason))
        raise


@pytest.fixture(scope="module")
def stack(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack as `docker compose up -d` starts it: one broker, two processors; 3 s per file."""
    with composed(tmp_path_factory.mktemp("compose"), image, *FILES, project="filemill-test") as stack:
        yield stack


@pytest.fixture(scope="module")
def ha_stack(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with three brokers."""
    with composed(tmp_path_factory.mktemp("ha"), image, *HA_FILES, project="filemill-test-ha") as stack:
        yield stack


@pytest.fixture(scope="module")
def secure_stack(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with TLS, users and sign-in."""
    folder = tmp_path_factory.mktemp("secure")
    with composed(folder, image, *SECURE_FILES, project="filemill-test-secure") as stack:
        yield stack
