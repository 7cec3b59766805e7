# SPDX-License-Identifier: Apache-2.0
"""The network interfaces a guest sets up: VLANs and bonds among them, from the files of four ways to say so.

Source: interfaces(5), vlan-interfaces(5), ifenslave's README; Red Hat's sysconfig.txt of network-scripts;
nm-settings-keyfile(5); systemd.netdev(5), systemd.network(5); netplan's YAML reference.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from donjon.audit.facts.guests import GuestLink
from donjon.audit.guest.tree import GuestTree

_NAMED_VLAN = re.compile(r"(?P<parent>[a-z][\w-]*?)\.(?P<vlan>\d{1,4})$|vlan(?P<only>\d{1,4})$")
_SAME = re.compile(r"(?m)^\s*(vlans|bonds|bridges|tunnels):")


def find_links(tree: GuestTree) -> tuple[GuestLink, ...]:
    """All interfaces but the loopback. Raises Unseen; ValueError: a file is not understood."""
    found: dict[str, GuestLink] = {}
    for read in (_interfaces, _ifcfg, _network_manager, _networkd, _netplan):
        for link in read(tree):
            if link.name not in found or found[link.name].kind == "ethernet":  # one stanza of several says what it is
                found[link.name] = link
    for bond in [link for link in found.values() if link.kind == "bond"]:
        found[bond.name] = replace(bond, members=tuple(sorted({*bond.members, *_enslaved(tree, bond.name)})))
    return tuple(found[name] for name in sorted(found) if name != "lo")


def _named(
    name: str, mac: str = "", kind: str = "ethernet", parent: str = "", vlan: int = 0, members: tuple[str, ...] = ()
) -> GuestLink:
    """What an interface is by its name, and by what else is known."""
    link = GuestLink(name, mac, kind, parent, vlan, members)
    match = _NAMED_VLAN.fullmatch(name)
    if link.kind == "ethernet" and match:
        number = int(match["vlan"] or match["only"])
        return replace(link, kind="vlan", parent=parent or match["parent"] or "", vlan=vlan or number)
    return link


def _interfaces(tree: GuestTree) -> Iterator[GuestLink]:
    """Debian's stanzas: "iface NAME inet METHOD", and options below."""
    paths = [path for path, _ in tree.files("/etc/network") if path.endswith("/interfaces")]
    paths += [path for path, _ in tree.files("/etc/network/interfaces.d")]
    for path in paths:
        for stanza in re.split(r"(?m)^(?=\s*(?:iface|auto|allow-\S+|source\S*|mapping)\s)", tree.text(path)):
            words = stanza.split()
            if len(words) < 4 or words[0] != "iface":
                continue
            options = dict(line.split(None, 1) for line in stanza.splitlines()[1:] if len(line.split()) > 1)
            yield _debian(words[1], {key.replace("_", "-"): value for key, value in options.items()})


def _debian(name: str, options: Mapping[str, str]) -> GuestLink:
    members = tuple(word for word in options.get("bond-slaves", "").split() if word != "none")
    bond = "bond-slaves" in options or "bond-mode" in options
    return _named(
        name,
        mac=options.get("hwaddress", "").removeprefix("ether ").strip().lower(),
        kind="bond" if bond else "ethernet",
        parent=options.get("vlan-raw-device", ""),
        members=members,
    )


def _ifcfg(tree: GuestTree) -> Iterator[GuestLink]:
    for path, _ in tree.files("/etc/sysconfig/network-scripts"):
        if not path.rpartition("/")[2].startswith("ifcfg-"):
            continue
        settings = _shell_settings(tree.text(path))
        name = settings.get("DEVICE") or path.rpartition("/ifcfg-")[2]
        kind = "bond" if settings.get("TYPE", "").lower() == "bond" or "BONDING_OPTS" in settings else "ethernet"
        yield _named(
            name,
            mac=settings.get("HWADDR", settings.get("MACADDR", "")).lower(),
            kind="vlan" if settings.get("TYPE", "").lower() == "vlan" else kind,
            parent=settings.get("PHYSDEV", ""),
            vlan=int(settings.get("VLAN_ID", "0")),
        )


def _shell_settings(text: str) -> dict[str, str]:
    return {name: value.strip("\"'") for name, value in re.findall(r"(?m)^\s*(\w+)=(.*?)\s*$", text)}


def _enslaved(tree: GuestTree, bond: str) -> Iterator[str]:
    """Who says in its own file that it belongs to the bond."""
    for path, _ in tree.files("/etc/sysconfig/network-scripts"):
        settings = _shell_settings(tree.text(path)) if "/ifcfg-" in path else {}
        if settings.get("MASTER") == bond:
            yield settings.get("DEVICE") or path.rpartition("/ifcfg-")[2]
    for path, _ in tree.files("/etc/NetworkManager/system-connections"):
        connection = _sections(tree.text(path))["connection"]
        if bond in {connection.get("master"), connection.get("controller")}:
            yield connection.get("interface-name", "")
    for path, _ in tree.files("/etc/systemd/network"):
        said = _sections(tree.text(path))
        if said["Network"].get("Bond") == bond:
            yield said["Match"].get("Name", "")


def _network_manager(tree: GuestTree) -> Iterator[GuestLink]:
    for path, _ in tree.files("/etc/NetworkManager/system-connections"):
        said = _sections(tree.text(path))
        connection = said["connection"]
        kind = connection.get("type", "")
        if kind not in {"ethernet", "802-3-ethernet", "vlan", "bond"}:
            continue
        yield _named(
            connection.get("interface-name") or connection.get("id", path.rpartition("/")[2]),
            mac=said["ethernet"].get("mac-address", "").lower(),
            kind="ethernet" if kind.endswith("ethernet") else kind,
            parent=said["vlan"].get("parent", ""),
            vlan=int(said["vlan"].get("id", "0")),
        )


def _networkd(tree: GuestTree) -> Iterator[GuestLink]:
    """A .netdev makes a VLAN or bond; a .network says who carries the VLAN."""
    said = {path: _sections(tree.text(path)) for path, _ in tree.files("/etc/systemd/network")}
    networks = [one for path, one in said.items() if path.endswith(".network")]
    for path, one in said.items():
        kind, name = one["NetDev"].get("Kind", ""), one["NetDev"].get("Name", "")
        if path.endswith(".netdev") and kind in {"vlan", "bond"} and name:
            parents = [
                other["Match"].get("Name", "") for other in networks if name in other["Network"].get("VLAN", "").split()
            ]
            vlan = int(one["VLAN"].get("Id", "0"))
            yield _named(name, kind=kind, vlan=vlan, parent=parents[0] if parents else "")
    made = {one["NetDev"].get("Name", "") for one in said.values()}
    for one in networks:
        name = one["Match"].get("Name", "")
        if name and name not in made and not set(name) & set("*?[ "):
            yield _named(name, mac=one["Match"].get("MACAddress", "").lower())


def _netplan(tree: GuestTree) -> Iterator[GuestLink]:
    """Only names of plain network cards; whatever else netplan sets up is not understood."""
    for path, _ in tree.files("/etc/netplan"):
        text = tree.text(path)
        if _SAME.search(text):
            raise ValueError(f"{path} has more in it than plain network cards")
        below = re.search(r"(?m)^(\s*)ethernets:\s*\n((?:\1\s+.*\n?|\s*\n)*)", text)
        lines = [line for line in (below[2] if below else "").splitlines() if line.strip()]
        depth = min((len(line) - len(line.lstrip()) for line in lines), default=0)
        yield from (
            _named(line.strip().partition(":")[0].strip("\"'"))
            for line in lines
            if len(line) - len(line.lstrip()) == depth
        )


def _sections(text: str) -> defaultdict[str, dict[str, str]]:
    """Section -> NAME -> VALUE; those of one name, one after the other."""
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif "=" in line and line[0] not in "#;":
            name, value = (part.strip() for part in line.split("=", 1))
            found[section][name] = f"{found[section].get(name, '')} {value}".strip()
    return found
