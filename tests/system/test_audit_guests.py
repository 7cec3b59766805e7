# SPDX-License-Identifier: Apache-2.0
"""What an audit says of real guests of a real libvirt: first of a host where all is wrong, then of one put right."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest

from donjon.audit.bundle import Bundle
from donjon.audit.collect.bundle_file import read_bundle
from donjon.audit.collect.script import script
from donjon.audit.facts.host import read_host
from donjon.audit.judge import Judgement, Result, judge
from donjon.audit.profile import Profile
from donjon.audit.verdict import Severity, Status
from lab.libvirt_host import Host, libvirt_host

pytestmark = [pytest.mark.system, pytest.mark.root]

TODAY = date(2026, 11, 23)
MIB = 1 << 20
PASSWORD = "correct-horse"

DOMAIN = """\
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='{boot}'/></os>
  {cpu}
  <on_crash>{on_crash}</on_crash>
  <devices>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <video><model type='vga'/></video>
    {devices}
  </devices>
  {more}
</domain>
"""


def disk(
    source: Path, target: str, kind: str = "qcow2", more: str = "", device: str = "disk", bus: str = "virtio"
) -> str:
    return (
        f"<disk type='file' device='{device}'><driver name='qemu' type='{kind}' cache='none'/><source file='{source}'/>"
        f"<target dev='{target}' bus='{bus}'/>{more}</disk>"
    )


def arguments(*words: str) -> str:
    return "<qemu:commandline>" + "".join(f"<qemu:arg value='{word}'/>" for word in words) + "</qemu:commandline>"


def bad_guests(images: Path, outside: Path) -> dict[str, str]:
    """By name; those called "off-..." are defined, but not started."""
    shared = disk(images / "shared.img", "vdb", "raw", "<shareable/>")
    return {
        "doors": DOMAIN.format(
            name="doors",
            boot="network",
            cpu="",
            on_crash="coredump-destroy",
            devices="<graphics type='vnc' port='5907' listen='0.0.0.0'/>"
            "<serial type='tcp'><source mode='bind' host='0.0.0.0' service='2445'/><protocol type='telnet'/></serial>"
            + disk(images / "public.qcow2", "vda")
            + shared,
            more=arguments("-monitor", "tcp:0.0.0.0:4444,server=on,wait=off", "-gdb", "tcp:0.0.0.0:4445"),
        ),
        "shares": DOMAIN.format(
            name="shares",
            boot="hd",
            cpu="",
            on_crash="destroy",
            devices=f"<graphics type='vnc' port='5908' listen='0.0.0.0' passwd='{PASSWORD[:8]}'/>"
            + shared
            + disk(images / "floppy.img", "fda", "raw", device="floppy", bus="fdc")
            + "<filesystem type='mount' accessmode='passthrough'><source dir='/etc'/><target dir='etc'/></filesystem>"
            "<interface type='user'><mac address='52:54:00:00:00:01'/><model type='rtl8139'/></interface>",
            more="",
        ),
        "off-header": DOMAIN.format(
            name="off-header",
            boot="hd",
            cpu="",
            on_crash="destroy",
            devices=disk(images / "written.img", "vda", "raw")
            + disk(images / "astray.qcow2", "vdb")
            + "<interface type='user'><mac address='52:54:00:00:00:01'/></interface>",
            more="",
        ),
    }


def good_guests(images: Path) -> dict[str, str]:
    names = ("doors", "shares", "off-header")
    consoles = "<graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'/><serial type='pty'/>"
    return {
        name: DOMAIN.format(
            name=name,
            boot="hd",
            cpu="<cpu mode='maximum'/>",
            on_crash="destroy",
            devices=consoles
            + disk(images / f"{name}.qcow2", "vda")
            + disk(images / f"{name}.img", "vdb", "raw")
            + f"<interface type='user'><mac address='52:54:00:00:01:{number:02x}'/><model type='virtio'/></interface>",
            more="",
        )
        for number, name in enumerate(names)
    }


def make(image: Path, kind: str, *more: str, mode: int = 0o600) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", kind, *more, image, str(MIB)], check=True)
    image.chmod(mode)


def virsh(host: Host, *words: str) -> None:
    subprocess.run(["virsh", "-q", "-c", host.uri, *words], check=True, capture_output=True, text=True)


@contextmanager
def guests(host: Host, definitions: dict[str, str]) -> Iterator[None]:
    """Defined, and started without running a single instruction."""
    for name, xml in definitions.items():
        file = host.folder / "define.xml"
        file.write_text(xml, encoding="utf-8")
        virsh(host, "define", str(file))
        if not name.startswith("off-"):
            virsh(host, "start", name, "--paused")
    try:
        yield
    finally:
        for name in definitions:
            if not name.startswith("off-"):
                virsh(host, "destroy", name)
            virsh(host, "undefine", name)


def collected(host: Host) -> Bundle:
    """By the real collector, among the processes, files and sockets of this host."""
    inside = ("nsenter", "-t", str(host.namespace_pid()), "-m", "-n", "-u", "-p")
    environment = {key: value for key, value in os.environ.items() if key != "LIBVIRT_DEFAULT_URI"}
    ran = subprocess.run(
        [*inside, "sh", "-s"], input=script().encode(), capture_output=True, check=True, env=environment
    )
    assert PASSWORD[:8].encode() not in ran.stdout
    return read_bundle(io.BytesIO(ran.stdout))


def audit(host: Host) -> Judgement:
    profile = Profile("test", hosts="K", image_roots=(str(host.images),), tenants={"shop": ("*",)})
    return judge([read_host(collected(host))], profile, TODAY)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with libvirt_host() as host:
        yield host


@pytest.fixture(scope="module")
def bad(host: Host) -> Judgement:
    images = host.images
    outside = host.folder / "outside.qcow2"
    make(outside, "qcow2")
    make(images / "public.qcow2", "qcow2", mode=0o644)
    make(images / "astray.qcow2", "qcow2", "-F", "qcow2", "-b", str(outside))
    make(images / "written.img", "qcow2")
    for name in ("shared.img", "floppy.img"):
        make(images / name, "raw")
    images.chmod(0o777)
    loop = subprocess.run(
        ["losetup", "-f", "--show", images / "shared.img"], check=True, capture_output=True, text=True
    )
    try:
        with guests(host, bad_guests(images, outside)):
            return audit(host)
    finally:
        subprocess.run(["losetup", "-d", loop.stdout.strip()], check=True)


@pytest.fixture(scope="module")
def good(host: Host, bad: Judgement) -> Judgement:
    images = host.images
    for image in (*images.iterdir(), host.folder / "outside.qcow2"):
        image.unlink()
    for name in ("doors", "shares", "off-header"):
        make(images / f"{name}.qcow2", "qcow2")
        make(images / f"{name}.img", "raw")
    images.chmod(0o711)
    with guests(host, good_guests(images)):
        return audit(host)


def results(report: Judgement, control: str, subject: str) -> list[Result]:
    return [
        one
        for one in report.results
        if one.control == control and (one.name == subject or one.subject.endswith(f"/{subject}") or not subject)
    ]


WRONG = [
    ("GST-01", "doors", Severity.CRITICAL, "listens on 0.0.0.0 without a password"),
    ("GST-01", "shares", Severity.HIGH, "listens on 0.0.0.0 with a password, but not encrypted"),
    ("GST-02", "shares", Severity.HIGH, "a password is all that guards VNC"),
    ("GST-04", "doors", Severity.HIGH, "telnet 0.0.0.0:2445"),
    ("GST-05", "doors", Severity.CRITICAL, "tcp:0.0.0.0:4444"),
    ("GST-06", "doors", Severity.CRITICAL, "-gdb tcp:0.0.0.0:4445"),
    ("GST-07", "doors", Severity.HIGH, "raw arguments"),
    ("GST-10", "shares", Severity.HIGH, "writes to the host's /etc"),
    ("GST-11", "shares", Severity.HIGH, "shares and doors have the same disk"),
    ("GST-12", "off-header", Severity.HIGH, "is raw, but begins like qcow2"),
    ("GST-14", "doors", Severity.MEDIUM, "boots from the network first"),
    ("GST-15", "shares", Severity.LOW, "has a floppy drive"),
    ("GST-18", "doors", Severity.HIGH, "qemu64"),
    ("GST-20", "doors", Severity.MEDIUM, "is written to"),
    ("GNW-03", "off-header", Severity.HIGH, "52:54:00:00:00:01"),
    ("STO-01", "public.qcow2", Severity.HIGH, "can be read by everybody"),
    ("STO-02", "images", Severity.HIGH, "everybody may write to"),
    ("STO-03", "astray.qcow2", Severity.HIGH, "which is in no approved folder"),
    ("STO-09", "", Severity.MEDIUM, "is attached as /dev/loop"),
]


@pytest.mark.parametrize(("control", "subject", "severity", "says"), WRONG)
def test_what_is_wrong_is_found(bad: Judgement, control: str, subject: str, severity: Severity, says: str) -> None:
    found = results(bad, control, subject)
    assert [(one.status, one.severity) for one in found] == [(Status.FAIL, severity)], found
    assert says in found[0].summary + str(found[0].evidence)


@pytest.mark.parametrize("control", sorted({control for control, *_ in WRONG}))
@pytest.mark.parametrize("subject", ["doors", "shares", "off-header"])
def test_what_was_put_right_passes(good: Judgement, control: str, subject: str) -> None:
    subjects = {"STO-01": f"{subject}.qcow2", "STO-02": "images", "STO-03": f"{subject}.qcow2", "STO-09": ""}
    found = results(good, control, subjects.get(control, subject))
    assert [one.status for one in found] == [Status.PASS], found


def test_only_what_needs_a_look_inside_a_guest_or_far_away_stays_unknown(bad: Judgement, good: Judgement) -> None:
    assert unknown(good) == {"GNW-04", "GNW-08"}  # GNW-08: a host without a default route has no management segment
    assert unknown(bad) - unknown(good) == {"GST-11"}  # one image is made of a file in a folder nobody knows


def unknown(report: Judgement) -> set[str]:
    results = [one for one in report.results if one.control.startswith(("GST", "GNW", "STO"))]
    return {one.control for one in results if one.status is Status.UNKNOWN}
