# SPDX-License-Identifier: Apache-2.0
"""A piece of a host that fails a control, what its fix wants, and the same piece as it is after that."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import msgspec

from donjon.audit.fact import Fact, Known
from donjon.audit.facts.certificates import Certificate, Certificates
from donjon.audit.facts.host import Host
from donjon.audit.judge import Judgement, Result, judge
from donjon.audit.profile import Networks, Profile
from donjon.audit.verdict import Status
from donjon.harden.change import Change, Document, Edit, Permissions
from donjon.harden.fixes import fixes
from donjon.harden.plan import Plan
from donjon.harden.planning import make_plan
from tests.unit.audit.control_cases import Answer, Machine, host_of
from tests.unit.harden.scratch_host import MACHINE, NOON, ScratchHost

TODAY = date(2026, 11, 23)
QEMU = "/etc/libvirt/qemu.conf"
IMAGE = "/var/lib/libvirt/images/a.img"
UUID = "6bc9a352-aa92-4066-934c-a95069ae0168"
OTHER = "7bc9a352-aa92-4066-934c-a95069ae0169"
NETWORKS = Networks(
    management=("10.0.0.0/24",), migration=("10.0.2.0/24",), managers=("10.0.0.5",), peers=("10.0.2.2", "10.0.2.3")
)
TOLD = Profile("told", networks=NETWORKS)
LINKS = msgspec.json.encode(
    [
        {"ifname": "eth0", "link_type": "ether", "addr_info": [{"local": "10.0.0.1", "prefixlen": 24}]},
        {"ifname": "eth1", "link_type": "ether", "addr_info": [{"local": "10.0.2.1", "prefixlen": 24}]},
    ]
).decode()
_CERTIFICATE = Certificate("CN=x", (), False, False, date(2026, 1, 1), date(2027, 1, 1), "RSA", 4096, "sha256", "00")


@dataclass(frozen=True)
class Scene:
    """`definitions`: UUID -> XML as virsh prints it, of VMs that are off; `files` have their texts in the machine."""

    control: str
    machine: Machine = field(default_factory=Machine)
    profile: Profile = field(default_factory=lambda: Profile("case"))
    certificates: tuple[str, ...] = ()
    definitions: dict[str, str] = field(default_factory=dict)

    @property
    def host(self) -> Host:
        uuids = "\n".join(self.definitions)
        live = "".join(f"@live {uuid}\n{xml}" for uuid, xml in self.definitions.items())
        commands = {"machine-id": MACHINE + "\n", **self.machine.commands}
        if self.definitions:
            commands["domains"] = f"{live}@autostart\n@persistent\n{uuids}\n@there\n{uuids}\n@end\n"
        found = host_of(msgspec.structs.replace(self.machine, commands=commands))
        if not self.certificates:
            return found
        known: dict[str, Fact[Certificate]] = {path: Known(_CERTIFICATE, path) for path in self.certificates}
        return msgspec.structs.replace(found, certificates=Certificates(Known(known, "cmd/certificates")))

    @property
    def judgement(self) -> Judgement:
        return judge([self.host], self.profile, TODAY, (self.control,))

    @property
    def failures(self) -> list[Result]:
        return [one for one in self.judgement.results if one.status is Status.FAIL]

    @property
    def changes(self) -> list[Change]:
        answers = [fixes()[self.control](result, self.host, self.profile) for result in self.failures]
        return [answer for answer in answers if answer is not None]

    def after(self, *changes: Change) -> Scene:
        """The same once all that these want is so: texts, definitions and permissions."""
        scene = self
        for want in (want for change in changes for want in change.wants):
            match want:
                case Edit(path, rewrite):
                    text = rewrite(scene.machine.files.get(path, ""))
                    assert rewrite(text) == text, "a second time changes more"
                    scene = scene.with_files({path: text})
                case Document(name, _, _, rewrite):
                    uuid = name.removeprefix("definition of ")
                    xml = rewrite(scene.definitions[uuid])
                    assert rewrite(xml) == xml, "a second time changes more"
                    scene = replace(scene, definitions={**scene.definitions, uuid: xml})
                case Permissions():
                    scene = scene._permitted(want)
        return scene

    def with_files(self, files: dict[str, str]) -> Scene:
        absent = tuple(path for path in self.machine.absent if path not in files)
        files = {**self.machine.files, **files}
        return replace(self, machine=msgspec.structs.replace(self.machine, files=files, absent=absent))

    def planned(self, host: ScratchHost) -> Plan:
        return make_plan(self.judgement, self.host, self.profile, host.runner, clock=lambda: NOON)

    def _permitted(self, want: Permissions) -> Scene:
        """Modes as the probes tell them: octal before owners, or hexadecimal with the type of the file."""

        def listed(line: str) -> str:
            words = line.split(" ")
            return " ".join([f"{int(words[0], 16) & (want.at_most | ~0o7777):x}", *words[1:]])

        def told(mode: str) -> str:
            return re.sub(r"\b0[0-7]{3}\b", lambda found: f"{int(found[0], 8) & want.at_most:04o}", mode)

        paths = {path: told(text) if path == want.path else text for path, text in self.machine.paths.items()}
        commands = dict(self.machine.commands)
        for name in {"images", "donjon-setup"} & commands.keys():
            lines = str(commands[name]).splitlines(keepends=True)
            change = listed if name == "images" else _kept
            commands[name] = "".join(change(line) if line.endswith(f"{want.path}\n") else line for line in lines)
        return replace(self, machine=msgspec.structs.replace(self.machine, paths=paths, commands=commands))


def _kept(line: str) -> str:
    kind, mode, _, _, path = line.split("\t")
    return "\t".join([kind, f"{int(mode, 8) & 0o600:o}", "root", "root", path])


def vm(
    devices: str = "", *, uuid: str = UUID, name: str = "web1", head: str = "", os: str = "hd", tail: str = ""
) -> str:
    """A definition as virsh of libvirt 9.0 prints it."""
    boots = "".join(f"    <boot dev='{device}'/>\n" for device in os.split())
    return f"""\
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='KiB'>65536</memory>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
{boots}  </os>
{head}  <clock offset='utc'/>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
{devices}    <memballoon model='none'/>
  </devices>
{tail}</domain>
"""


def image(path: str, mode: int, owner: str = "root root") -> str:
    """A line of the probe "images"."""
    return f"{mode:x} 0 0 1 8:7 0:0 {owner} {path}\n"


def guest(
    control: str, *devices: str, head: str = "", os: str = "hd", tail: str = "", profile: Profile | None = None
) -> Scene:
    """A host with one VM that is off, and its image."""
    xml = vm("".join(devices), head=head, os=os, tail=tail)
    commands: dict[str, str | Answer] = {
        "libvirt-networks": "@end\n",
        "domain-passwords": "stored\tweb1\n" + "stored\tweb1\tvnc\tno\t\n" * ("<graphics" in xml),
        "cpu-flags": "flags : fpu spec_ctrl md_clear\n",
        "images": image(IMAGE, 0o100600) + "@end\n",
        "image-headers": f"@image {IMAGE}\n00000000\n@end\n",
    }
    machine = Machine(commands=commands, files={QEMU: "#x\n"}, absent=("/etc/libvirt/*.conf",))
    return Scene(control, machine, profile or Profile("x"), definitions={UUID: xml})


def program(folder: Path, name: str, text: str) -> None:
    """A program of this name that does what this sh says."""
    folder.mkdir(exist_ok=True)
    place = folder / name
    place.write_text(f"#!/bin/sh\n{text}", encoding="utf-8")
    place.chmod(0o755)
