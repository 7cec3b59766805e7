# SPDX-License-Identifier: Apache-2.0
"""A sosreport is taken for what it is: what is in it is known, what is not in it is unknown and never absent."""

from __future__ import annotations

import io
import lzma
import subprocess
import tarfile
from pathlib import Path

import pytest

from donjon.audit.collect.bundle_file import read_bundle
from donjon.audit.collect.script import assembled
from donjon.audit.collect.sosreport import read_evidence, read_sosreport
from donjon.audit.fact import Known, Unknown
from donjon.audit.facts.host import read_host
from donjon.errors import ConfigError, IntegrityError

FOLDER = "sosreport-kvm7-2026-11-20-abcdefg"
DOMAIN = """<domain type='kvm'{id}>
  <name>web</name>
  <uuid>11111111-2222-3333-4444-55555555555{digit}</uuid>
  <devices><graphics type='vnc' port='-1' autoport='yes' listen='0.0.0.0'/></devices>
</domain>
"""
MEMBERS = {
    "etc/hostname": "kvm7.example.com\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/os-release": 'ID="rhel"\nVERSION_ID="9.4"\nPRETTY_NAME="Red Hat Enterprise Linux 9.4 (Plow)"\n',
    "etc/libvirt/qemu.conf": "# nothing\n",
    "etc/ssh/sshd_config": "PermitRootLogin no\n",
    "proc/cmdline": "BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro\n",
    "proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu vme\n\nprocessor\t: 1\nflags\t\t: fpu vme\n",
    "sys/kernel/mm/ksm/run": "1\n",
    "sys/devices/system/cpu/vulnerabilities/meltdown": "Mitigation: PTI\n",
    "sos_commands/kernel/uname_-a": "Linux kvm7 5.14.0-427.el9.x86_64 #1 SMP x86_64 x86_64 x86_64 GNU/Linux\n",
    "sos_commands/kernel/sysctl_-a": "net.ipv4.conf.eth0/5.forwarding = 0\nnet.ipv4.ip_forward = 1\nvm.x = 1\n",
    "sos_commands/selinux/sestatus_-b": "SELinux status:                 enabled\n"
    "Current mode:                   permissive\nMode from config file:          enforcing\n\nPolicy booleans:\n",
    "sos_commands/rpm/package-data": "qemu-kvm-8.2.0-11.el9_4.x86_64\tThu Jan  1 00:00:00 2026\t1767225600\tRed Hat\n",
    "sos_commands/systemd/systemctl_list-units_--all": "  UNIT LOAD ACTIVE SUB DESCRIPTION\n"
    "● kdump.service loaded failed failed Crash recovery\n  sshd.service loaded active running OpenSSH\n\n"
    "LOAD   = Reflects\n2 loaded units listed.\n",
    "sos_commands/virsh/virsh_-r_dumpxml_web": DOMAIN.format(id=" id='3'", digit=1),
    "sos_commands/virsh/virsh_-r_dumpxml_old": DOMAIN.format(id="", digit=2),
    "sos_commands/chrony/chronyc_-n_sources": "bash: chronyc: command not found\n",
}


def sosreport(path: Path, members: dict[str, str], folder: str = FOLDER) -> Path:
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w") as archive:
        link = tarfile.TarInfo(f"{folder}/uname")
        link.type, link.linkname = tarfile.SYMTYPE, "sos_commands/kernel/uname_-a"
        archive.addfile(link)
        for name, text in members.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    path.write_bytes(lzma.compress(into.getvalue(), preset=0))
    return path


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return sosreport(tmp_path / "sosreport.tar.xz", MEMBERS)


def test_facts_are_read_from_it(report: Path) -> None:
    bundle = read_evidence(report)
    host = read_host(bundle)
    assert host.platform.name == "kvm7.example.com"
    assert host.platform.kinds == Known("K", "cmd/hypervisors")
    assert isinstance(host.platform.release, Known)
    assert (host.platform.release.value.id, host.platform.release.value.version) == ("rhel", "9.4")
    assert host.platform.kernel == Known("5.14.0-427.el9.x86_64", "cmd/uname")
    assert isinstance(host.platform.taken, Known)
    assert host.platform.taken.value.date().isoformat() == "2026-11-20"
    assert bundle.text("/etc/ssh/sshd_config") == Known("PermitRootLogin no\n", "/etc/ssh/sshd_config")


def test_members_become_what_our_own_probes_print(report: Path) -> None:
    bundle = read_sosreport(report)
    expected = {
        "cpu": "processor\t: 0\nflags\t\t: fpu vme",
        "cpu-flags": "flags\t\t: fpu vme\n",
        "ksm": "run:1\n",
        "cpu-vulnerabilities": "meltdown:Mitigation: PTI\n",
        "forwarding": "/proc/sys/net/ipv4/conf/eth0.5/forwarding:0\n/proc/sys/net/ipv4/ip_forward:1\n",
        "mandatory-access": "selinux 0\nconfigured enforcing\n",
        "packages": "rpm\nqemu-kvm\t8.2.0-11.el9_4\tx86_64\t\t1767225600\nend\n",
        "units": "kdump.service loaded failed failed Crash recovery\nsshd.service loaded active running OpenSSH\n",
    }
    assert {probe: bundle.commands[probe].out for probe in expected} == expected


def test_its_guests_are_seen(report: Path) -> None:
    domains = read_host(read_sosreport(report)).domains.all
    assert isinstance(domains, Known)
    assert [(one.name, one.uuid[-1], one.running) for one in domains.value] == [("web", "2", False), ("web", "1", True)]


def test_what_is_not_in_it_is_unknown(report: Path) -> None:
    bundle = read_sosreport(report)
    assert isinstance(bundle.output("chrony-sources"), Unknown)
    assert isinstance(bundle.output("nft-ruleset"), Unknown)
    assert isinstance(bundle.text("/etc/sudoers"), Unknown)
    assert isinstance(bundle.texts("/etc/ssh/sshd_config.d/*.conf"), Unknown)
    assert isinstance(bundle.paths.at("/etc/libvirt"), Unknown)


def test_a_hostile_one_is_refused_or_harmless(tmp_path: Path, report: Path) -> None:
    with pytest.raises(IntegrityError):
        read_sosreport(sosreport(tmp_path / "a", MEMBERS, "evil"))
    assert "/etc/../x" not in read_sosreport(sosreport(tmp_path / "b", {"etc/../x": "x"})).files
    (tmp_path / "c").write_bytes(report.read_bytes()[:400])
    for read in (read_sosreport, read_evidence):
        with pytest.raises(IntegrityError):
            read(tmp_path / "c")
        with pytest.raises(ConfigError):
            read(tmp_path / "none")


def test_a_bundle_of_our_own_is_evidence_too(tmp_path: Path) -> None:
    script = assembled(["probe hello 5 echo hello"]).encode()
    raw = subprocess.run(["sh", "-s"], input=script, capture_output=True, check=True).stdout
    (tmp_path / "bundle.tar").write_bytes(raw)
    assert read_evidence(tmp_path / "bundle.tar") == read_bundle(tmp_path / "bundle.tar")
