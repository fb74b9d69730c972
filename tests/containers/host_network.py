"""This machine's network as before an engine of the tests' own: dockerd leaves its bridge and its rules behind."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

BRIDGE = "docker0"
TABLES = ("filter", "nat", "raw")
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Take away, in the end, what dockerd added; what was there before, as of another engine, is left alone."""
    before = {table: _rules(table) for table in TABLES}
    there = Path("/sys/class/net", BRIDGE).exists() or any(map(_chains, before.values()))
    forwarding = _FORWARDING.read_text()
    try:
        yield
    finally:
        if not there:
            for table in TABLES:
                _remove(table)
            _try("iptables", "--wait", "--policy", "FORWARD", _policy(before["filter"]))
            _try("ip", "link", "delete", BRIDGE)
            _FORWARDING.write_text(forwarding)


def _remove(table: str) -> None:
    """The rules that name a chain or the bridge of Docker's, then its chains."""
    rules = _rules(table)
    chains = _chains(rules)
    for rule in rules:
        words = rule.split()
        if words[0] == "-A" and {*chains, BRIDGE} & set(words[1:]):
            _try("iptables", "--wait", "--table", table, "-D", *words[1:])
    for chain in chains:
        _try("iptables", "--wait", "--table", table, "-F", chain)
    for chain in chains:
        _try("iptables", "--wait", "--table", table, "-X", chain)


def _chains(rules: list[str]) -> list[str]:
    return [rule.split()[1] for rule in rules if rule.startswith("-N DOCKER")]


def _policy(rules: list[str]) -> str:
    return next((rule.split()[2] for rule in rules if rule.startswith("-P FORWARD")), "ACCEPT")


def _rules(table: str) -> list[str]:
    """As `iptables -S` lists them; none where the kernel has no such table."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        argv = ["iptables", "--wait", "--table", table, "-S"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
        return done.stdout.splitlines() if done.returncode == 0 else []
    return []


def _try(*argv: str) -> None:
    """What is gone already is gone."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(argv, capture_output=True, check=False, timeout=30)
