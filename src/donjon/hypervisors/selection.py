# SPDX-License-Identifier: Apache-2.0
"""Which VMs the operator means: by name, UUID or label."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from urllib.parse import urlsplit

from donjon.errors import HostError
from donjon.model.vm import Vm

_HERE = ("", "localhost", "127.0.0.1", "::1")


def choose(names: Mapping[str, str], wanted: str) -> str:
    """The UUID of the VM called `wanted`, or whose UUID it is.

    Args:
        names: of all VMs, by UUID.
        wanted: a name or UUID.

    Raises:
        HostError: there is none, or more than one.
    """
    found = [uuid for uuid, name in names.items() if wanted in (name, uuid) or wanted.lower() == uuid]
    if len(found) == 1:
        return found[0]
    if found:
        raise HostError(f"cannot tell which VM {wanted!r} is: {len(found)} go by that name", hint=", ".join(found))
    close = get_close_matches(wanted, sorted(names.values()))
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "`virsh list --all` shows what there is"
    raise HostError(f"cannot find the VM {wanted!r}: there is none of that name or UUID", hint=hint)


def matches(vm: Vm, selector: str) -> bool:
    """Whether a VM has a label: "tier=db" wants that value, "tier" any."""
    key, equals, value = selector.partition("=")
    return key in vm.labels and (not equals or vm.labels[key] == value)


def other_host(uri: str, *own_names: str) -> str | None:
    """The host that a hypervisor's address names, None if it is this one, which has these names, too."""
    host = urlsplit(uri).hostname
    return None if host is None or host in (*_HERE, *(name.lower() for name in own_names)) else host
