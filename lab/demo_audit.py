# SPDX-License-Identifier: Apache-2.0
"""The last act of the demo: the host that runs the guest is audited, and one finding fixed and given back."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.demo_stage import Stage
from lab.guest import define, virsh
from lab.libvirt_host import Host
from lab.programs import run

CARELESS = "kiosk"
DEFINITION = f"""\
<domain type='qemu'>
  <name>{CARELESS}</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <graphics type='vnc' autoport='yes' listen='0.0.0.0'/>
    <video><model type='vga'/></video>
  </devices>
</domain>
"""
SETTINGS = "/etc/libvirt/qemu.conf"
FIXED = "CFG-01"
STATE = Path("/var/lib/donjon")
# A name of its own; and what hardening keeps on a host and may change there are copies, gone with the host.
OWN = """\
hostname kvm1
cp -a /etc "$0/etc-of-host"
mount --bind "$0/etc-of-host" /etc
mount --bind "$0/etc" /etc/libvirt
mount -t tmpfs -o mode=700 donjon /var/lib/donjon
chmod 644 /etc/libvirt/qemu.conf
"""


def audit(stage: Stage, host: Host, folder: Path) -> None:
    """Two careless settings are found; one of them is put right, and that is undone. Needs root.

    Raises:
        NotProvenError: it is not as the demo says.
    """
    stage.act("And the host itself? Two careless settings are found, and one of them is put right")
    on_host = ["nsenter", "-t", str(host.namespace_pid()), "-m", "-n", "-u", "-p"]
    with _state_folder():
        run(*on_host, "sh", "-ec", OWN, host.folder)
        _command(folder / "on-host", on_host)
        define(host.uri, DEFINITION)
        virsh(host.uri, "start", CARELESS, "--paused")
        controls = f"--control GST-01 --control {FIXED}"
        found = stage.type(f"./on-host donjon audit run {controls}", exit_code=20).output
        stage.type(f"./on-host donjon harden plan --control {FIXED} -o plan.json")
        modes = [_mode(on_host)]
        for verb in ("apply", "rollback"):
            stage.type(f"./on-host donjon harden {verb} plan.json")
            modes.append(_mode(on_host))
    stage.means(
        "Nothing was installed on the host to look at it, and nothing changed. The plan is a file to be read before it"
        " is applied, and what it did can be undone at any time. Exit code 20 is for your monitoring."
    )
    stage.prove(
        "audit", f"VNC without a password, and {SETTINGS}: both found", holds="GST-01" in found and FIXED in found
    )
    stage.prove("harden", f"mode of {SETTINGS}: {', then '.join(modes)}", holds=modes == ["644", "640", "644"])


@contextmanager
def _state_folder() -> Iterator[None]:
    """Where the host's own is mounted over: there for as long as the block runs, if it was not there before."""
    missing = not STATE.exists()
    STATE.mkdir(exist_ok=True, mode=0o700)
    try:
        yield
    finally:
        if missing:
            STATE.rmdir()


def _command(path: Path, before: list[str]) -> None:
    """A command that runs others on the host, which knows of no other libvirt."""
    here = [*before, "sh", "-c", 'cd "$0" && exec "$@"']  # who enters a mount namespace is at its root
    path.write_text(f'#!/bin/sh\nunset LIBVIRT_DEFAULT_URI\nexec {shlex.join(here)} "$PWD" "$@"\n', encoding="ascii")
    path.chmod(0o755)


def _mode(on_host: list[str]) -> str:
    return run(*on_host, "stat", "-c", "%a", SETTINGS).strip()
