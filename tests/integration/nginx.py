"""A real nginx with the configuration of docs/operations.md."""

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import trustme

from tests.integration.processes import ProcessGroup, wait_until

START_SECONDS = 60
PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether a program accepts connections at the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def start_nginx(processes: ProcessGroup, folder: Path, upstream: str, port: int, tls_name: str | None = None) -> None:
    """Serve `upstream` at the port: with TLS for `tls_name`; without, nginx says that the scheme is https.

    Returns when it listens.
    """
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("no nginx: install the package `nginx-light`")
        pytest.skip("no nginx")
    found = re.search(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    server = found[1].replace("http://127.0.0.1:8501", upstream)
    if tls_name is None:
        server = re.sub(r"\n +ssl_.*", "", server).replace("443 ssl", f"127.0.0.1:{port}").replace("$scheme", "https")
    else:
        issued = trustme.CA().issue_cert(tls_name)
        issued.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
        server = re.sub(r"/etc/ssl/files\.example\.(pem|key)", str(folder / "server.pem"), server)
        server = server.replace("443 ssl", f"127.0.0.1:{port} ssl").replace("files.example", tls_name)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; master_process off;\nevents {{}}\n"
        f"http {{ access_log off;\n{temporary}{server} }}"
    )
    subprocess.run([program, "-t", "-c", configuration], check=True, capture_output=True)
    nginx = processes.run("nginx", [program, "-c", str(configuration)], {})
    wait_until(lambda: listens(port), START_SECONDS, f"nginx listens\n{nginx.tail()}")
