"""The restoration of this machine's network configuration, tested in a separate network namespace."""

import os
import shutil
import subprocess
import sys

import pytest

from filemill_infra.compose import CHECKOUT

# In the new namespace: an existing rule, then the changes of dockerd 20, then a comparison.
SCRIPT = """
import subprocess
from pathlib import Path
from tests.containers import host_network as network

def run(lines):
    subprocess.run(["sh", "-ec", lines], check=True)

def state():
    bridge = Path("/sys/class/net", network.BRIDGE).exists()
    forwards = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    rules = {table: network._rules(table) for table in network.TABLES}
    return bridge, forwards, rules

run("echo 0 >/proc/sys/net/ipv4/ip_forward; iptables -A INPUT -p tcp --dport 9 -j DROP")
before = state()
with network.restored():
    run('''
        ip link add docker0 type bridge
        echo 1 >/proc/sys/net/ipv4/ip_forward
        iptables -P FORWARD DROP
        for chain in DOCKER DOCKER-ISOLATION-STAGE-1 DOCKER-USER; do iptables -N $chain; done
        iptables -A FORWARD -j DOCKER-USER
        iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
        iptables -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER
        iptables -t nat -N DOCKER
        iptables -t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
        iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
    ''')
    during = state()
    with network.restored():
        pass
    assert state() == during, "existing rules belong to another engine"
    assert during != before
assert state() == before, (before, state())
print("restored")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start an engine")
def test_bridge_rules_and_forwarding_are_restored_and_existing_ones_kept() -> None:
    if shutil.which("iptables") is None or shutil.which("unshare") is None:
        pytest.skip("the engine needs iptables, this test unshare")
    inside = ["sh", "-ec", 'mount -t sysfs none /sys; exec "$@"', "sh", sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        ["unshare", "--net", "--mount", *inside],
        cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "restored\n"), done.stderr
