# SPDX-License-Identifier: Apache-2.0
"""Bundles as a collector prints them, of hosts that are told in a few words; hosts that an `ssh` reaches; waivers."""

from __future__ import annotations

import io
import json
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

WEB = "11111111-2222-3333-4444-555555555555"
VM = f"""<domain type='kvm'><name>web01</name><uuid>{WEB}</uuid><memory unit='KiB'>65536</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
<devices><graphics type='vnc' port='-1' listen='{{listen}}'><listen type='address' address='{{listen}}'/></graphics>
</devices></domain>"""
DOMAINS = f"@live {WEB}\n{VM}\n@autostart\n@persistent\n{WEB}\n@there\n{WEB}\n@end\n"
PASSWORDS = "stored\tweb01\nstored\tweb01\tvnc\tno\t\n"

TODAY = datetime.now(UTC).date()
WAIVERS = """[[waiver]]
control = "{control}"
subject = "web*"
host = "kvm*"
reason = "being rebuilt"
owner = "ann"
created = {created}
expires = {expires}
"""


def host(name: str = "kvm1", *, listen: str = "0.0.0.0", machine_id: str = "", **probes: str) -> dict[str, str]:
    """What the probes of a KVM host say that has one VM, whose console listens there."""
    return {
        "hypervisors": "libvirt-qemu\n",
        "machine-id": f"{machine_id or name}\n",
        "domains": DOMAINS.format(listen=listen),
        "domain-passwords": PASSWORDS,
    } | {probe.replace("_", "-"): said for probe, said in probes.items()}


def bundle(
    path: Path, probes: dict[str, str], name: str = "kvm1", modes: dict[str, str] | None = None, cut: int | None = None
) -> Path:
    """A bundle at a path, cut off there. `modes`: what root has below /etc/pki; a directory ends in /."""
    manifest = {"collector": "donjon-1", "sha256": "", "host": name, "started": "2026-11-20T12:00:00+00:00"}
    found = ((seen.rstrip("/"), "d" if seen.endswith("/") else "f", mode) for seen, mode in (modes or {}).items())
    files = {
        "manifest.json": json.dumps(manifest | {"user": "root", "probes": list(probes)}).encode(),
        "asked": b"/etc/libvirt/qemu.conf\0/etc/libvirt/*.conf\0",
        "refused": b"",
        "root/etc/libvirt/qemu.conf": b"# nothing is set\n",
        "look/1.asked": b"3\0/etc/pki\0/etc/ssh\0/etc/ovs-agent/cert\0",
        "look/1.found": "".join(f"{kind} {mode} 0 0 root root 9 17\0{seen}\0\0" for seen, kind, mode in found).encode(),
        "look/1.rc": b"0\n",
        "look/1.how": b"find\n",
    }
    for probe, said in probes.items():
        files |= {f"cmd/{probe}.out": said.encode(), f"cmd/{probe}.err": b"", f"cmd/{probe}.rc": b"0\n"}
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for member, content in {**files, "end": b""}.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    path.write_bytes(into.getvalue()[:cut])
    return path


def waivers(home: Path, control: str = "GST-01", days: int = 10) -> Path:
    """Waivers made 20 days ago that run out so many days from now."""
    path = home / f"{control}-{days}.toml"
    created, expires = TODAY - timedelta(20), TODAY + timedelta(days)
    path.write_text(WAIVERS.format(control=control, created=created, expires=expires), encoding="utf-8")
    return path


_SSH = """#!/bin/sh
for word; do host=$name name=$word; done
cd "{folder}" && read -r first
[ -e "$host.tar" ] || {{ echo "ssh: connect to host $host port 22: Connection refused" >&2; exit 255; }}
case $first in
DONJON_ROOT=*) {{ echo "DONJON_ROOT={folder}/$host"; cat; }} | sh -s ;;
*) cat "$host.tar" ;;
esac
"""


def fake_ssh(folder: Path) -> Path:
    """A folder for $PATH with an `ssh` that reaches hosts NAME: their bundle is NAME.tar, their file system NAME/."""
    program = folder / "bin/ssh"
    program.parent.mkdir()
    program.write_text(_SSH.format(folder=folder), encoding="utf-8")
    program.chmod(0o755)
    return program.parent
