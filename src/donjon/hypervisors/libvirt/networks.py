# SPDX-License-Identifier: Apache-2.0
"""Networks that guests have for themselves: a bridge of their own, no uplink, no addresses, no forwarding.

Source: libvirt.org/formatnetwork.html, "Very isolated private mode": a network without <forward> and <ip>.
"""

from __future__ import annotations

from hashlib import sha256
from xml.etree.ElementTree import Element, SubElement

from donjon.errors import RefusedError
from donjon.hypervisors.document import format_document, parse_document
from donjon.hypervisors.libvirt.calls import LibvirtError, told
from donjon.hypervisors.libvirt.connection import Connection

_BRIDGE_DIGITS = 10
"""Of a hash of the network's name; names of interfaces have at most 15 characters."""


def create_isolated(connection: Connection, name: str) -> None:
    """Make one that is gone when it is turned off; succeeds if there is one of that name.

    Raises:
        RefusedError: guests of this connection cannot have networks, or the one of that name is another kind.
    """
    if connection.is_session:
        raise RefusedError(
            f"cannot create the network {name!r}: guests of an ordinary user's libvirt have none of their own",
            hint="use qemu:///system",
        )
    definition = _definition(connection, name)
    if definition is None:
        with told(f"create the network {name!r}"):
            connection.handle.networkCreateXML(_isolated_xml(name))
    elif not _is_isolated(definition):
        raise RefusedError(f"cannot create the network {name!r}: there is another one of that name, and not isolated")


def delete(connection: Connection, name: str) -> None:
    """Turn it off, and so delete it; succeeds if there is no isolated one of that name."""
    definition = None if connection.is_session else _definition(connection, name)
    if definition is None or not _is_isolated(definition):
        return
    try:
        with told(f"delete the network {name!r}"):
            connection.handle.networkLookupByName(name).destroy()
    except LibvirtError as error:
        if not error.is_a("NO_NETWORK"):
            raise


def _definition(connection: Connection, name: str) -> str | None:
    try:
        with told(f"look at the network {name!r}"):
            return str(connection.handle.networkLookupByName(name).XMLDesc())
    except LibvirtError as error:
        if error.is_a("NO_NETWORK"):
            return None
        raise


def _isolated_xml(name: str) -> str:
    network = Element("network")
    SubElement(network, "name").text = name
    digits = sha256(name.encode()).hexdigest()[:_BRIDGE_DIGITS]
    SubElement(network, "bridge", name=f"dj{digits}", stp="off")
    return format_document(network)


def _is_isolated(definition: str) -> bool:
    network = parse_document(definition)
    return network.find("bridge") is not None and network.find("forward") is None and network.find("ip") is None
