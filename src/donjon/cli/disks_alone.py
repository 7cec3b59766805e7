# SPDX-License-Identifier: Apache-2.0
"""A VM of which no hypervisor knows, put together from its disks, and its definition if there is one."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from donjon.errors import ConfigError
from donjon.hypervisors.definition import parse_definition
from donjon.model.vm import Disk, Power, Vm

_LARGEST_DEFINITION = 16 << 20


def vm_from_files(name: str | None, disks: Sequence[str], definition: Path | None) -> Vm:
    """The VM that files make up.

    Args:
        name: the VM's; may be None if there is a definition.
        disks: TARGET=PATH or TARGET=PATH,format=FORMAT, which the definition's disks of that name give way to.
        definition: the path of its XML.

    Raises:
        ConfigError: something about it makes no sense.
    """
    host = socket.gethostname()
    if definition is None:
        if not name:
            raise ConfigError("cannot back up disks without a name for their VM", hint="donjon backup NAME --disk ...")
        vm = Vm(_own_uuid(host, name), name, host, Power.UNKNOWN, ())
    else:
        vm = parse_definition(_read(definition), host)
        if name and name not in (vm.name, vm.uuid):
            raise ConfigError(f"cannot back up {name}: {definition} is the definition of {vm.name}")
        vm = vm if vm.uuid else replace(vm, uuid=_own_uuid(host, vm.name))
    given = [text.partition("=")[0] for text in disks]
    if twice := next((target for target in given if given.count(target) > 1), None):
        raise ConfigError(f"cannot back up {vm.name}: disk {twice} was given twice")
    for text in disks:
        vm = _with_disk(vm, text)
    return vm


def _own_uuid(host: str, name: str) -> str:
    """The same for the same name on the same host."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.{host}.donjon"))


def _with_disk(vm: Vm, text: str) -> Vm:
    target, equals, rest = text.partition("=")
    path, comma, image_format = rest.rpartition(",format=")
    if not comma:
        path, image_format = rest, ""
    if not (target and equals and path):
        raise ConfigError(f"cannot read --disk {text}", hint="write TARGET=PATH, as in --disk vda=/images/web.qcow2")
    source = str(Path(path).absolute())
    present = next((disk for disk in vm.disks if disk.target == target), None)
    if present is None:
        return replace(vm, disks=(*vm.disks, Disk(target, source, image_format or None)))
    moved = replace(present, source=source, remote=None, image_format=image_format or present.image_format)
    return replace(vm, disks=tuple(moved if disk is present else disk for disk in vm.disks))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_DEFINITION)
        return content.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the definition {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read the definition {path}: it is not UTF-8") from error
