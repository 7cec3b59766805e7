# SPDX-License-Identifier: Apache-2.0
"""A VM of a real libvirt that is open on all sides is shut by its fixes, passes the audit, and comes back as it was."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from msgspec.structs import replace

from donjon.audit.collect.bundle_file import read_bundle
from donjon.audit.collect.script import script
from donjon.audit.facts.host import read_host
from donjon.audit.judge import Judgement, Result, judge
from donjon.audit.profile import Profile
from donjon.audit.verdict import Status
from donjon.harden.apply import State, apply, rollback
from donjon.harden.planning import make_plan
from lab.libvirt_host import Host, libvirt_host
from tests.unit.harden.scratch_host import ScratchHost
from tests.unit.harden.test_fixes_guests import GUESTS

pytestmark = [pytest.mark.system, pytest.mark.root]

CONTROLS = (
    "GST-01",
    "GST-04",
    "GST-05",
    "GST-06",
    "GST-10",
    "GST-12",
    "GST-14",
    "GST-18",
    "GST-20",
    "STO-01",
    "STO-02",
)
DEFINITION = """\
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>open</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='network'/><boot dev='hd'/></os>
  <on_crash>coredump-restart</on_crash>
  <devices>
    <disk type='file' device='disk'><source file='{images}/open.img'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='cdrom'><source file='{images}/debian.iso'/><target dev='sda' bus='sata'/></disk>
    <graphics type='vnc' port='5907' listen='0.0.0.0'/>
    <serial type='tcp'>
      <source mode='bind' host='0.0.0.0' service='2445'/><protocol type='telnet'/>
    </serial>
    <filesystem type='mount' accessmode='passthrough'><source dir='/srv'/><target dir='srv'/></filesystem>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-monitor'/><qemu:arg value='tcp:0.0.0.0:4444,server=on,wait=off'/>
    <qemu:arg value='-s'/>
  </qemu:commandline>
</domain>
"""


@pytest.fixture
def host() -> Iterator[Host]:
    with libvirt_host() as host:
        host.images.chmod(0o755)
        for name in ("open.img", "debian.iso"):
            (host.images / name).write_bytes(bytes(1 << 20))
            (host.images / name).chmod(0o666)
        file = host.folder / "define.xml"
        file.write_text(DEFINITION.format(images=host.images))
        virsh(host, "define", "--validate", str(file))
        yield host


@pytest.fixture
def engine(host: Host, tmp_path: Path) -> Iterator[ScratchHost]:
    """What the engine takes for the file system of the host: nothing but its images."""
    scratch = ScratchHost(tmp_path / "host")
    scratch.write("/etc/machine-id", Path("/etc/machine-id").read_text())
    images = scratch.at(str(host.images))
    images.mkdir(parents=True)
    subprocess.run(["mount", "--bind", host.images, images], check=True)
    try:
        yield scratch
    finally:
        subprocess.run(["umount", images], check=True)


def test_libvirt_takes_each_definition_that_fixes_make(host: Host) -> None:
    for scene, said in GUESTS:
        (xml,) = scene.after(*scene.changes).definitions.values()
        file = host.folder / "define.xml"
        file.write_text(xml.replace("<domain type='kvm'", "<domain type='qemu'"))
        virsh(host, "define", "--validate", str(file))
        stored_again = virsh(host, "dumpxml", "--inactive", "web1")
        for words in (words for words in said if "\n" not in words and "driver" not in words):
            assert words in stored_again, (scene.control, stored_again)
        virsh(host, "undefine", "web1")


def virsh(host: Host, *words: str) -> str:
    done = subprocess.run(["virsh", "-q", "-c", host.uri, *words], check=True, capture_output=True, text=True)
    return done.stdout


def stored(host: Host) -> str:
    return virsh(host, "dumpxml", "--inactive", "--security-info", "open")


def modes(host: Host) -> dict[str, int]:
    return {path.name: path.stat().st_mode for path in (host.images, *host.images.iterdir())}


def audited(host: Host) -> tuple[Judgement, Profile, bytes]:
    inside = ("nsenter", "-t", str(host.namespace_pid()), "-m", "-n", "-u", "-p")
    clean = {key: value for key, value in os.environ.items() if key != "LIBVIRT_DEFAULT_URI"}
    ran = subprocess.run([*inside, "sh", "-s"], input=script().encode(), capture_output=True, check=True, env=clean)
    profile = Profile("test", hosts="K", image_roots=(str(host.images),))
    facts = read_host(read_bundle(io.BytesIO(ran.stdout)))
    return judge([facts], profile, date(2026, 11, 23), CONTROLS), profile, ran.stdout


def failures(judgement: Judgement) -> tuple[Result, ...]:
    """But for folders of the daemon itself, which the engine does not see here."""
    failed = (one for one in judgement.results if one.status is Status.FAIL)
    return tuple(one for one in failed if not one.subject.startswith("/var/lib/"))


def test_an_open_vm_is_shut_passes_the_audit_and_is_given_back(
    host: Host, engine: ScratchHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", host.uri)
    before, modes_before = stored(host), modes(host)
    judgement, profile, collected = audited(host)
    bad = failures(judgement)
    assert {one.control for one in bad} == set(CONTROLS) - {"GST-12"}, "libvirt itself says the format of every disk"
    judgement = replace(judgement, results=bad)
    plan = make_plan(judgement, read_host(read_bundle(io.BytesIO(collected))), profile, engine.runner)
    assert plan.instructions == ()
    assert len([step for step in plan.steps if step.title.startswith("edit definition")]) == 1
    assert apply(plan, engine.runner) is State.WAITING
    after, _, _ = audited(host)
    assert failures(after) == ()
    assert "0.0.0.0" not in stored(host)
    assert modes(host)["open.img"] & 0o007 == 0
    assert rollback(plan.id, engine.runner) is State.REVERTED
    assert stored(host) == before
    assert modes(host) == modes_before
