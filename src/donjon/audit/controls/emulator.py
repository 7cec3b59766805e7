# SPDX-License-Identifier: Apache-2.0
"""What QEMU's own arguments open: monitors, debugger stubs, displays.

Source: qemu(1).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

_MONITORS = {"-monitor", "-qmp", "-qmp-pretty"}
_PORTS = {"-serial", "-parallel", "-virtioconsole", "-debugcon"}
_NETWORK = ("tcp:", "telnet:", "udp:", "websocket:", "tn3270:")


def monitors(arguments: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    """Where monitors listen, and whether that is on the network; those that listen nowhere are left out."""
    backends = {_words(value).get("id", ""): value for value in _values(arguments, {"-chardev"})}
    mixed = [value[4:] for value in _values(arguments, _PORTS) if value.startswith("mon:")]
    for value in (*_values(arguments, _MONITORS), *mixed):
        yield from _endpoint(backends.get(value.removeprefix("chardev:"), value))
    for value in _values(arguments, {"-mon"}):
        words = _words(value)
        name = words.get("chardev", value.partition(",")[0])
        if name in backends:
            yield from _endpoint(backends[name])


def debuggers(arguments: tuple[str, ...]) -> Iterator[str]:
    """The arguments that open a debugger's stub."""
    yield from (argument for argument in _plain(arguments) if argument == "-s")
    yield from (f"-gdb {value}" for value in _values(arguments, {"-gdb"}) if value != "none")


def displays(arguments: tuple[str, ...]) -> Iterator[str]:
    """The addresses on which VNC and SPICE listen by raw arguments."""
    places = [value[4:] for value in _values(arguments, {"-display"}) if value.startswith("vnc=")]
    for place in (*places, *_values(arguments, {"-vnc"})):
        if not place.startswith(("unix:", "none")):
            yield place.partition(",")[0].rpartition(":")[0] or "0.0.0.0"  # noqa: S104 -- what QEMU does
    for value in _values(arguments, {"-spice"}):
        words = _words(value)
        if words.get("unix", "off") != "on" and ("port" in words or "tls-port" in words):
            yield words.get("addr", "") or "0.0.0.0"  # noqa: S104


def _plain(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """QEMU takes "--name" for "-name"."""
    return tuple(argument[1:] if argument.startswith("--") else argument for argument in arguments)


def _values(arguments: tuple[str, ...], options: set[str]) -> list[str]:
    plain = _plain(arguments)
    return [value for option, value in pairwise(plain) if option in options]


def _words(value: str) -> dict[str, str]:
    pairs = (word.partition("=") for word in value.split(","))
    return {key: value or "on" for key, _, value in pairs}


def _endpoint(value: str) -> Iterator[tuple[str, bool]]:
    words = _words(value)
    if value.startswith(_NETWORK):
        yield value.partition(",")[0], True
    elif value.startswith(("unix:", "/")):
        yield value.removeprefix("unix:").partition(",")[0], False
    elif "port" in words or "host" in words:
        yield f"{words.get('host', '')}:{words.get('port', '')}", True
    elif "path" in words and value.startswith(("socket", "pipe")):
        yield words["path"], False
