# SPDX-License-Identifier: Apache-2.0
"""libvirt's virtual networks.

Source: libvirt.org/formatnetwork.html.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from donjon.errors import ConfigError
from donjon.hypervisors.definition import attribute, child_text
from donjon.hypervisors.document import parse_document


class VirtualNetwork(Struct, frozen=True):
    """A network of libvirt. `forward`: nat, route, bridge, open, ...; "" if it goes nowhere."""

    name: str
    bridge: str = ""
    forward: str = ""
    device: str = ""
    vlan: tuple[int, ...] = ()
    trunk: bool = False
    native_vlan: int = 0
    isolated: bool = False
    port: str = ""
    trusts_guest: bool = False


class SwitchPort(Struct, frozen=True):
    """A port of Open vSwitch: `tag` 0 if it has none; without `tag` and `trunks` it carries every VLAN."""

    name: str
    tag: int = 0
    trunks: tuple[int, ...] = ()
    mode: str = ""


def parse_switch_ports(text: str) -> dict[str, SwitchPort]:
    """By name, from the JSON table of ovs-vsctl.

    Raises:
        ValueError: it is none.
    """
    try:
        table = msgspec.json.decode(text, type=_Table)
        rows = [dict(zip(table.headings, row, strict=True)) for row in table.data]
        ports = [_switch_port(row) for row in rows]
    except (msgspec.DecodeError, RecursionError, TypeError, LookupError) as error:
        raise ValueError(f"not a table of ovs-vsctl: {error}") from error
    return {port.name: port for port in ports}


class _Table(Struct):
    headings: list[str]
    data: list[list[Any]]


def _switch_port(row: dict[str, Any]) -> SwitchPort:
    """An optional value is itself, or ["set", [...]]."""
    tag, trunks, mode = (_members(row[name]) for name in ("tag", "trunks", "vlan_mode"))
    return SwitchPort(
        str(row["name"]),
        int(tag[0]) if tag else 0,
        tuple(int(one) for one in trunks),
        str(mode[0]) if mode else "",
    )


def _members(value: object) -> list[Any]:
    match value:
        case ["set", list(members)]:
            return members
        case _:
            return [value]


def parse_networks(text: str) -> dict[str, VirtualNetwork]:
    """By name; from the definitions of all networks, each after a line "@network", and "@end" after all.

    Raises:
        ValueError: it is not whole.
    """
    whole, end, _ = text.rpartition("@end")
    if not end:
        raise ValueError("it is cut off")
    definitions = whole.split("@network\n")
    networks = [_network(definition) for definition in definitions if definition.strip()]
    return {network.name: network for network in networks}


def _network(text: str) -> VirtualNetwork:
    try:
        root = parse_document(text)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    forward = root.find("forward")
    tags = root.findall("vlan/tag")
    native = [tag for tag in tags if tag.get("nativeMode")]
    return VirtualNetwork(
        name=child_text(root, "name"),
        bridge=attribute(root.find("bridge"), "name"),
        forward="" if forward is None else forward.get("mode", "nat"),
        device=attribute(forward, "dev"),
        vlan=tuple(int(tag.get("id", "")) for tag in tags),
        trunk=attribute(root.find("vlan"), "trunk") == "yes" or len(tags) > 1,
        native_vlan=int(native[0].get("id", "")) if native else 0,
        isolated=attribute(root.find("port"), "isolated") == "yes",
        port=attribute(root.find("virtualport"), "type"),
        trusts_guest=root.get("trustGuestRxFilters") == "yes",
    )
