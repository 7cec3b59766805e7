# SPDX-License-Identifier: Apache-2.0
"""What a restored VM's definition will say, and where the files go that it names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from donjon.hypervisors.definition import SYSTEM_TPM_ROOT, TPM_FOLDERS, parse_definition
from donjon.hypervisors.identity import rewrite_definition
from donjon.model.restore_point import SideFilePoint
from donjon.model.vm import Vm
from donjon.restore_points import safe_name

_LONGEST_NAME = 200
"""In bytes; leaves room for what a file is called until it is whole."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`vm` is what `definition` describes, `path` where its text goes, `side_paths` by role where all else goes."""

    vm: Vm
    definition: str
    path: Path
    side_paths: Mapping[str, Path]
    notes: tuple[str, ...]


def plan_definition(
    definition: str,
    *,
    directory: Path,
    name: str,
    new_name: str | None,
    new_identity: bool,
    disks: Mapping[str, tuple[str, str]],
    side_files: tuple[SideFilePoint, ...],
    tpm_root: Path | None,
) -> Plan:
    """Point a definition to where everything will be.

    Args:
        definition: as it was kept.
        directory: takes the side files.
        name: of the VM, as it will be.
        new_name: None if that is its own.
        new_identity: give it another UUID and other MAC addresses.
        disks: path and format by target.
        side_files: what there is to restore.
        tpm_root: where the hypervisor expects the state of TPMs, by UUID; None: it is not to be defined now.

    Raises:
        ConfigError: it is no definition.
    """
    first = rewrite_definition(definition, name=new_name, new_identity=new_identity, disks=disks, side_files={})
    root = tpm_root or Path(SYSTEM_TPM_ROOT)
    vm = parse_definition(first.definition, host="", tpm_root=str(root))
    paths = {file.role: directory / file_name(name, f"-{file.role}") for file in side_files}
    notes = first.notes
    if "tpm" in paths and (place := _own_tpm_place(vm, root)):
        if tpm_root is None:
            notes += (
                f"before the VM first starts, the TPM's state must be where its hypervisor expects it: {paths['tpm']}",
            )
        else:
            paths["tpm"] = place
    final = rewrite_definition(
        first.definition,
        new_identity=False,
        disks=disks,
        side_files={role: str(path) for role, path in paths.items()},
    )
    return Plan(vm, final.definition, directory / file_name(name, ".xml"), paths, notes)


def _own_tpm_place(vm: Vm, root: Path) -> Path | None:
    """Where the hypervisor looks for the state of this VM's TPM; None if the definition says where."""
    own = {root / vm.uuid / folder for folder in TPM_FOLDERS} if vm.uuid else set()
    places = (Path(side.path) for side in vm.side_files if side.role == "tpm")
    return next((place for place in places if place in own), None)


def file_name(name: str, ending: str) -> str:
    """A VM's name and an ending as the name of a file, which has an end to its length."""
    stem = safe_name(name)
    if len((stem + ending).encode()) <= _LONGEST_NAME:
        return stem + ending
    mark = "~" + hashlib.sha256(name.encode()).hexdigest()[:8]
    room = _LONGEST_NAME - len((mark + ending).encode())
    return stem.encode()[:room].decode(errors="ignore") + mark + ending
