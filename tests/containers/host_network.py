"""Restore this machine's network configuration: dockerd does not remove its bridge and its rules."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

BRIDGE = "docker0"
TABLES = ("filter", "nat", "raw")
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """At the end, remove what dockerd has added; if another engine's bridge or rules existed, remove nothing."""
    before = {table: _rules(table) for table in TABLES}
    existed = Path("/sys/class/net", BRIDGE).exists() or any(map(_chains, before.values()))
    forwarding = _FORWARDING.read_text()
    try:
        yield
    finally:
        if not existed:
            for table in TABLES:
                _remove(table)
            _try("iptables", "--wait", "--policy", "FORWARD", _policy(before["filter"]))
            _try("ip", "link", "delete", BRIDGE)
            _FORWARDING.write_text(forwarding)


def _remove(table: str) -> None:
    """Remove the rules with a chain of Docker or its bridge, then the chains."""
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
    """The output of `iptables -S`; empty if the kernel has no such table."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        argv = ["iptables", "--wait", "--table", table, "-S"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
        return done.stdout.splitlines() if done.returncode == 0 else []
    return []


def _try(*argv: str) -> None:
    """Run a command and ignore errors, such as that an object no longer exists."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(argv, capture_output=True, check=False, timeout=30)
