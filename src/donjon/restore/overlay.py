# SPDX-License-Identifier: Apache-2.0
"""Local qcow2 images over disks that an NBD server exports: made, looked at, and made independent of it.

Source: qemu-img(1); QEMU's docs/interop/live-block-operations.rst; libvirt takes the file name "json:{...}" of a
backing image literally, and the path in "nbd+unix:///vda?socket=PATH" without decoding it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from donjon.errors import HostError
from donjon.host_command import run
from donjon.hypervisors.definition import disk_elements, disk_target, parse_domain
from donjon.hypervisors.document import format_document
from donjon.images.qcow2_sink import CREATE_TIMEOUT_S, SECTOR, creation_options

_FLATTEN_TIMEOUT_S = 7 * 24 * 3600.0


class _Info(msgspec.Struct, rename="kebab"):
    backing_filename: str | None = None


def create_overlay(path: Path, size: int, options: Mapping[str, str], socket: Path, export: str) -> None:
    """Make a qcow2 image of that size in an empty file, over an export that need not be served yet.

    Raises:
        HostError: QEMU cannot make it.
        IntegrityError: an option has a value that is none.
    """
    served = {"driver": "nbd", "export": export, "server": {"type": "unix", "path": str(socket)}}
    behind = {"driver": "raw", "file": served}
    argv = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", *creation_options(options)]
    sectors_size = -(-size // SECTOR) * SECTOR
    backing = ["-F", "raw", "-b", f"json:{json.dumps(behind)}"]
    done = run([*argv, *backing, "--", path, str(sectors_size)], timeout_s=CREATE_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise HostError(f"cannot create image {path}: {done.complaint.removeprefix('qemu-img: ')}")


def needs_server(path: Path) -> bool:
    """Whether an image still has another behind it. Also while a guest uses it. Raises HostError."""
    argv: list[str | Path] = ["qemu-img", "info", "--force-share", "--output=json", "-f", "qcow2", "--", path]
    done = run(argv, timeout_s=CREATE_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise HostError(f"cannot examine image {path}: {done.complaint.removeprefix('qemu-img: ')}")
    return msgspec.json.decode(done.stdout, type=_Info).backing_filename is not None


def flatten(path: Path) -> None:
    """Copy into an image that nobody uses all it has from the one behind it, and forget that. Raises HostError."""
    argv: list[str | Path] = ["qemu-img", "rebase", "-q", "-f", "qcow2", "-b", "", "--", path]
    done = run(argv, timeout_s=_FLATTEN_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise HostError(f"cannot complete image {path}: {done.complaint.removeprefix('qemu-img: ')}")


def pausing_on_errors(definition: str, targets: Collection[str]) -> str:
    """The definition, its guest paused when one of these disks cannot be read or written: nothing is lost then.

    Raises:
        ConfigError: it is no definition.
    """
    domain = parse_domain(definition)
    for disk in disk_elements(domain):
        driver = disk.find("driver")
        if disk_target(disk) in targets and driver is not None:
            driver.set("error_policy", "stop")
            driver.set("rerror_policy", "stop")
    return format_document(domain)
