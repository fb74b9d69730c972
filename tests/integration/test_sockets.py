"""Every listening socket of the embedded servers rejects requests without credentials."""

import contextlib
import socket
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import psutil
import psycopg
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from filemill_infra.embedded.ports import LOOPBACK
from filemill_infra.embedded.supervisor import Supervisor
from tests.servers import RunningServers

BUCKET, KEY, BODY = "guarded-bucket", "guarded-key", b"guarded content"
# Paths that answer without a signature: versions, volumes, counters. docs/security.md lists them.
STATUS_PAGES = {
    ("master", "/"),
    ("master", "/ui/index.html"),
    ("master", "/cluster/status"),
    ("master", "/cluster/healthz"),
    ("master", "/healthz"),
    ("volume", "/status"),
    ("volume", "/healthz"),
    ("volume", "/ui/index.html"),
    ("s3", "/status"),
    ("s3", "/healthz"),
    ("admin", "/metrics"),
}
FOREIGN = {"Origin": "http://attacker.example"}
PATHS = (
    "/",
    "/ui/index.html",
    "/healthz",
    "/status",
    "/metrics",
    "/debug/pprof/",
    "/cluster/status",
    "/cluster/healthz",
    "/dir/assign",
    "/dir/lookup?volumeId=1",
    "/dir/status",
    f"/col/delete?collection={BUCKET}",
    "/vol/grow?count=1",
    "/vol/vacuum?garbageThreshold=0",
    "/vol/status",
    "/submit",
    "/stats/counter",
    "/stats/memory",
    "/1,0123456789",
    "/buckets/",
    f"/buckets/{BUCKET}/",
    f"/buckets/{BUCKET}/{KEY}",
    f"/{BUCKET}",
    f"/{BUCKET}/{KEY}",
    "/etc/iam/identities.json",
    "/?Action=ListUsers&Version=2010-05-08",
)
GRPC_CALLS = {
    "master.grpc": ("/master_pb.Seaweed/CollectionDelete", b"\x0a" + bytes([len(BUCKET)]) + BUCKET.encode()),
    "filer.grpc": ("/filer_pb.SeaweedFiler/ListEntries", b"\x0a\x08/buckets"),
    "volume.grpc": (
        "/volume_server_pb.VolumeServer/DeleteCollection",
        b"\x0a" + bytes([len(BUCKET)]) + BUCKET.encode(),
    ),
    "s3.grpc": ("/messaging_pb.SeaweedS3IamCache/PutIdentity", b""),
    "admin.grpc": ("/worker_pb.WorkerService/WorkerStream", b""),
}


@pytest.fixture(scope="module")
def stack(servers: RunningServers) -> Supervisor:
    """The session's servers, with an object in a bucket."""
    if not isinstance(servers, Supervisor):
        pytest.skip("of the embedded servers")
    client = _s3(servers, **_keys(servers))
    with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key=KEY, Body=BODY)
    client.close()
    return servers


@pytest.fixture
def _unharmed(stack: Supervisor) -> Iterator[None]:
    """Check that the object still exists, unchanged."""
    yield
    client = _s3(stack, **_keys(stack))
    assert client.get_object(Bucket=BUCKET, Key=KEY)["Body"].read() == BODY
    assert [found["Key"] for found in client.list_objects_v2(Bucket=BUCKET)["Contents"]] == [KEY]
    client.close()


def _keys(stack: Supervisor) -> dict[str, str]:
    settings = stack.state.settings
    return {name: str(settings[name]) for name in ("aws_access_key_id", "aws_secret_access_key")}


def _s3(stack: Supervisor, *, aws_access_key_id: str, aws_secret_access_key: str) -> Any:
    return boto3.session.Session().client(
        "s3",
        endpoint_url=str(stack.state.settings["s3_endpoint"]),
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 0}, connect_timeout=5, read_timeout=5, proxies={}),
        aws_access_key_id=aws_access_key_id,
        aws_secret_access_key=aws_secret_access_key,
    )


def _ports(stack: Supervisor) -> dict[int, str]:
    """The component of each listening port. `admin.grpc` has no own name."""
    named = {port: name for server in ("kafka", "postgres", "s3") for name, port in stack.server(server)._ports.items()}
    admin = next(port for port, name in named.items() if name == "admin")
    return named | {admin + 10_000: "admin.grpc"}


def _processes(stack: Supervisor) -> list[psutil.Process]:
    roots = [psutil.Process(server.process.pid) for server in stack.state.servers]
    assert stack.watchdog_pid is not None
    roots.append(psutil.Process(stack.watchdog_pid))
    return [process for root in roots for process in (root, *root.children(recursive=True))]


def test_each_listening_socket_is_on_loopback_and_known(stack: Supervisor) -> None:
    listening = [
        one.laddr
        for process in _processes(stack)
        for one in process.net_connections("inet")
        if one.status == psutil.CONN_LISTEN
    ]
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {LOOPBACK}
    assert {address.port for address in listening} == _ports(stack).keys()


def test_each_unix_socket_is_private(stack: Supervisor) -> None:
    bound = {str(one.laddr) for process in _processes(stack) for one in process.net_connections("unix")}
    paths = {path for path in bound - {""} if not path.startswith("@")} | {str(stack.state.control)}
    for path in paths:
        place = Path(path) if Path(path).is_absolute() else stack.home / "s3" / path
        modes = {stat.S_IMODE(place.stat().st_mode), stat.S_IMODE(place.parent.stat().st_mode)}
        assert any(not mode & 0o077 for mode in modes), f"{path}: {sorted(map(oct, modes))}"


@pytest.mark.usefixtures("_unharmed")
@pytest.mark.parametrize("part", ["master", "volume", "filer", "admin", "s3"])
def test_http_without_credentials_returns_no_data_and_changes_nothing(stack: Supervisor, part: str) -> None:
    port = next(port for port, name in _ports(stack).items() if name == part)
    answered = []
    headers = {**FOREIGN, "Connection": "close"}
    with httpx.Client(base_url=f"http://{LOOPBACK}:{port}", trust_env=False, timeout=5, headers=headers) as client:
        for path in PATHS:
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
                try:
                    answer = client.request(method, path, content=b"x" if method in ("POST", "PUT") else None)
                except httpx.RemoteProtocolError:
                    continue  # it closed the connection without reading the body: rejected
                assert BODY not in answer.content, (method, path)
                if method != "OPTIONS" and answer.status_code < 400 and (part, path.split("?")[0]) not in STATUS_PAGES:
                    answered.append((method, path, answer.status_code))
    assert answered == []


@pytest.mark.usefixtures("_unharmed")
@pytest.mark.parametrize("part", sorted(GRPC_CALLS))
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS without a certificate"])
def test_grpc_without_a_certificate_is_rejected(stack: Supervisor, part: str, *, encrypted: bool) -> None:
    port = next(port for port, name in _ports(stack).items() if name == part)
    method, message = GRPC_CALLS[part]
    assert not _grpc_answers(port, method, message, encrypted=encrypted)


@pytest.mark.usefixtures("_unharmed")
@pytest.mark.parametrize("keys", [("test", "test"), ("any", "any")])
def test_s3_rejects_the_published_keys(stack: Supervisor, keys: tuple[str, str]) -> None:
    client = _s3(stack, aws_access_key_id=keys[0], aws_secret_access_key=keys[1])
    place = {"Bucket": BUCKET, "Key": KEY}
    calls: list[tuple[Any, dict[str, Any]]] = [
        (client.list_buckets, {}),
        (client.get_object, place),
        (client.put_object, {**place, "Body": b"changed"}),
        (client.delete_object, place),
        (client.delete_bucket, {"Bucket": BUCKET}),
    ]
    for call, given in calls:
        with pytest.raises(ClientError) as caught:
            call(**given)
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    client.close()


def test_a_page_of_another_origin_cannot_read_a_signed_response(stack: Supervisor) -> None:
    client = _s3(stack, **_keys(stack))
    url = client.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": KEY})
    client.close()
    with httpx.Client(trust_env=False, timeout=5, headers=FOREIGN) as page:
        signed = page.get(url)
        asked = page.options(url, headers={"Access-Control-Request-Method": "PUT"})
    assert signed.content == BODY
    assert "access-control-allow-origin" not in signed.headers
    assert "access-control-allow-origin" not in asked.headers


@pytest.mark.parametrize("user", ["postgres", "fileuser", "fileowner", "filereader", "filemill_superuser", "root"])
def test_postgres_rejects_every_role_without_its_password(stack: Supervisor, user: str) -> None:
    for password in ("", "filepass", user):
        for database in ("postgres", "template1", "filedb"):
            with pytest.raises(psycopg.OperationalError, match=r"no password|authentication failed"):
                psycopg.connect(
                    host=LOOPBACK,
                    port=stack.server("postgres").port,
                    user=user,
                    password=password,
                    dbname=database,
                    passfile="/dev/null",
                )


def _grpc_answers(port: int, method: str, message: bytes, *, encrypted: bool) -> bool:
    """Whether a unary call gets at least a header. Hand-written, because nothing else needs a gRPC client."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": LOOPBACK,
        "content-type": "application/grpc",
        "te": "trailers",
    }
    # HPACK: each header is a literal without indexing.
    block = b"".join(
        bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in headers.items()
    )
    body = b"\0" + len(message).to_bytes(4) + message
    request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0) + _frame(1, 4, 1, block) + _frame(0, 1, 1, body)
    # An ssl.SSLError is an OSError.
    with contextlib.suppress(OSError), contextlib.ExitStack() as closing:
        channel = closing.enter_context(socket.create_connection((LOOPBACK, port), timeout=3))
        if encrypted:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            channel = closing.enter_context(context.wrap_socket(channel))
        channel.sendall(request)
        stream = closing.enter_context(channel.makefile("rb"))
        while len(head := stream.read(9)) == 9 and head[3] <= 9:
            stream.read(int.from_bytes(head[:3]))
            if head[3] == 1:
                return True
    return False


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload
