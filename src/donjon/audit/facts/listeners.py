# SPDX-License-Identifier: Apache-2.0
"""Sockets on which the host listens.

Source: ss(8) and netstat(8) with -lntup; proc_pid_net(5) for /proc/net/tcp.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, derived

_EVERY = {"*": "::", "0.0.0.0": "0.0.0.0", "::": "::"}  # noqa: S104 -- read, not bound
_SS_USER = re.compile(r'"(?P<name>[^"]*)",(?:pid=)?(?P<pid>\d+)')
_TCP_LISTEN, _UDP_UNCONNECTED = "0A", "07"


class Listener(Struct, frozen=True):
    """A listening socket.

    `protocol` is tcp or udp; `address` "0.0.0.0" or "::" for all; `process` is the name of whoever listens, "" if that
    could not be seen; `device`: of a socket for all addresses the interface it is bound to, "" if to none.
    """

    protocol: str
    address: str
    port: int
    process: str = ""
    pid: int = 0
    device: str = ""


class Listeners(Struct, frozen=True):
    """TCP and UDP sockets of the host's network namespace."""

    all: Fact[tuple[Listener, ...]]


def read_listeners(bundle: Bundle) -> Listeners:
    """From the probe "listeners": ss -lntup with its head line, or netstat -lntup, or files of /proc/net."""
    return Listeners(derived(bundle.output("listeners"), _parse))


def _parse(text: str) -> tuple[Listener, ...]:
    lines = text.splitlines()
    head = lines[0].split() if lines else []
    if head[:1] == ["Netid"]:
        return tuple(_of_ss(line) for line in lines[1:] if line.strip())
    if head[:1] == ["Active"]:
        return tuple(_of_netstat(line) for line in lines[2:] if line.strip())
    if head[:2] == ["sl", "local_address"]:
        return tuple(_of_proc(lines))
    raise ValueError("neither ss nor netstat wrote it")


def _of_ss(line: str) -> Listener:
    """NETID STATE RECV-Q SEND-Q LOCAL:PORT PEER:PORT [users:(("NAME",pid=N,fd=N))]."""
    protocol, _, _, _, local, *rest = line.split()
    user = _SS_USER.search(" ".join(rest))
    return _listener(protocol, local, user["name"] if user else "", int(user["pid"]) if user else 0)


def _of_netstat(line: str) -> Listener:
    """PROTO RECV-Q SEND-Q LOCAL:PORT FOREIGN:PORT [LISTEN] PID/NAME; of UDP no state is told."""
    protocol, _, _, local, _, *rest = line.split()
    if rest[:1] == ["LISTEN"]:
        rest = rest[1:]
    pid, _, name = " ".join(rest).partition("/")
    return _listener(protocol[:3], local, name.split(":")[0].strip(), int(pid) if pid.isdigit() else 0)


def _listener(protocol: str, local: str, process: str, pid: int) -> Listener:
    if protocol not in {"tcp", "udp"}:
        raise ValueError(f"{protocol[:20]!r} is no protocol")
    address, _, port = local.rpartition(":")
    address, _, device = address.partition("%")
    address = address.strip("[]")
    if address in _EVERY:
        return Listener(protocol, _EVERY[address], int(port), process, pid, device.strip("]"))
    return Listener(protocol, str(ipaddress.ip_address(address)), int(port), process, pid)


def _of_proc(lines: list[str]) -> Iterator[Listener]:
    """Two or four tables, each with a head: TCP before UDP, then both again for IPv6."""
    tables = 0
    for line in lines:
        words = line.split()
        if words[:1] == ["sl"]:
            tables += 1
            continue
        protocol = "udp" if tables % 2 == 0 else "tcp"
        if words[3] == (_TCP_LISTEN if protocol == "tcp" else _UDP_UNCONNECTED):
            address, port = words[1].split(":")
            yield Listener(protocol, _of_hex(address), int(port, 16))


def _of_hex(digits: str) -> str:
    """The address as the kernel writes it: words of 4 bytes, each little-endian."""
    raw = bytes.fromhex(digits)
    turned = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    return str(ipaddress.ip_address(turned))
