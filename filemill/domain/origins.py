"""Hosts and origins in HTTP headers. Parsing never raises: an invalid value yields None."""

import ipaddress
import re
from dataclasses import dataclass

DEFAULT_PORTS = {"http": 80, "https": 443}
# A DNS name has at most 253 characters; with a scheme, brackets and a port there is room to spare.
LENGTH_MAX = 300
_AUTHORITY = r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?)(?::(?P<port>[0-9]{1,5}))?"
_HOST = re.compile(_AUTHORITY)
_ORIGIN = re.compile(r"(?P<scheme>[Hh][Tt][Tt][Pp][Ss]?)://" + _AUTHORITY)

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Authority:
    """A Host header: the name in lower case, an IPv6 address without brackets, and the port if there is one."""

    host: str
    port: int | None


@dataclass(frozen=True)
class Origin:
    """Scheme, host and effective port, as browsers compare them."""

    scheme: str
    host: str
    port: int


def client_key(peer: str) -> str:
    """The key that a client is counted by: an IPv4 address or an IPv6 /64, since one host has a whole /64."""
    if ":" not in peer:
        return peer
    address = parse_ip(peer.partition("%")[0])
    return peer if address is None or address.version == 4 else ":".join(address.exploded.split(":")[:4])


def parse_ip(text: str) -> IpAddress | None:
    """The IP address. An IPv4-mapped IPv6 address becomes IPv4."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def parse_host(text: str) -> Authority | None:
    """The value of a Host header."""
    found = _HOST.fullmatch(text) if len(text) <= LENGTH_MAX else None
    return _authority(found) if found else None


def parse_origin(text: str) -> Origin | None:
    """The value of an Origin header; None for `null`."""
    found = _ORIGIN.fullmatch(text) if len(text) <= LENGTH_MAX else None
    authority = _authority(found) if found else None
    if found is None or authority is None:
        return None
    scheme = found["scheme"].lower()
    return Origin(scheme, authority.host, authority.port or DEFAULT_PORTS[scheme])


def is_loopback_name(host: str) -> bool:
    """Whether the host is a loopback name or address that does not depend on DNS."""
    address = parse_ip(host)
    return host == "localhost" if address is None else address.is_loopback


def _authority(found: re.Match[str]) -> Authority | None:
    host = found["host"].lower()
    if host.startswith("["):
        address = parse_ip(host[1:-1])
        if address is None:
            return None
        host = str(address)
    port = int(found["port"]) if found["port"] else None
    return Authority(host, port) if port is None or 0 < port < 65536 else None


def split_list(text: str) -> list[str]:
    """The entries of a comma-separated setting."""
    return [entry.strip() for entry in text.split(",") if entry.strip()]


def has_user_info(address: str) -> bool:
    """Whether an address or URL contains a user name or a password: `user:pass@host`."""
    return "@" in address.rpartition("://")[2].partition("/")[0]


_USER_INFO = re.compile(r"(?<=://)[^\s/@'\"]*:[^\s/'\"]*@")


def redact_passwords(text: str) -> str:
    """The text without user names and passwords in its URLs."""
    return _USER_INFO.sub("", text) if "@" in text else text
