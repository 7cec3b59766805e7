# SPDX-License-Identifier: Apache-2.0
"""Cases of controls as fixes see them: what a fix wants of a case that fails, and the case once it has got it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

from msgspec.structs import replace

from donjon.audit.fact import Unseen
from donjon.audit.judge import Result
from donjon.audit.verdict import Status
from donjon.harden.change import Change, Document, Edit, Permissions
from donjon.harden.fixes import fixes
from donjon.harden.fixes.acc import SSHD_DROP_IN
from donjon.harden.fixes.hyp_guests import MODULE_OPTIONS
from tests.unit.audit.control_cases import Answer, Case, all_cases, host_of, results_of

UNITS = "systemd\n"
ACCOUNTS = {
    "passwd": "root:x:0:0::/root:/bin/bash\nlibvirt-qemu:x:64055:994::/:/usr/sbin/nologin\n",
    "group": "root:0:\nkvm:994:\n",
    "shadow-classes": "root:locked:19000\nlibvirt-qemu:locked:19000\n",
}
HASH = "grub.pbkdf2.sha512.10000.AB12.CD34"
DEBIAN = {"/etc/os-release": "ID=debian\nVERSION_ID=12\n"}
GRUB_10 = 'CLASS="--class gnu-linux --class gnu --class os"\necho menuentry ${CLASS}\n'


def a_case(control: str, name: str, **changes: object) -> Case:
    return replace(next(case for number, case in all_cases() if (number, case.name) == (control, name)), **changes)


def with_machine(case: Case, **changes: object) -> Case:
    """The case on a machine that differs in these; `commands` are added."""
    if isinstance(more := changes.get("commands"), dict):
        changes["commands"] = {**case.machine.commands, **more}
    return replace(case, machine=replace(case.machine, **changes))


def failures(control: str, case: Case) -> list[Result]:
    return [one for one in results_of(control, case) if one.status is Status.FAIL]


def changes_of(control: str, case: Case) -> list[Change]:
    facts, found = host_of(case.machine), []
    for result in failures(control, case):
        with suppress(Unseen):
            found.append(fixes()[control](result, facts, case.profile))
    return [change for change in found if change is not None]


def the_change(control: str, case: Case) -> Change:
    (change,) = changes_of(control, case)
    return change


def refused(control: str, case: Case) -> bool:
    return bool(failures(control, case)) and not changes_of(control, case)


def edited(change: Change, path: str, text: str = "") -> str:
    """What becomes of a text; once is as good as twice."""
    for edit in (want for want in change.wants if isinstance(want, Edit) and want.path == path):
        text = edit.rewrite(text)
        assert edit.rewrite(text) == text
    return text


def fixed(case: Case, changes: Iterable[Change]) -> Case:
    """The case when texts, modes and definitions are as the changes want them."""
    machine = case.machine
    files, paths, commands = dict(machine.files), dict(machine.paths), dict(machine.commands)
    for change in changes:
        for want in change.wants:
            match want:
                case Edit(path, _, mode):
                    assert path in files or mode is not None
                    files[path] = edited(change, path, files.get(path, ""))
                    commands |= in_force(commands, path, files[path])
                case Permissions(path, at_most, owner):
                    *kind, mode_now, owner_now = paths[path].split()
                    paths[path] = " ".join([*kind, f"{int(mode_now, 8) & at_most:04o}", owner or owner_now])
                case Document():
                    commands["domains"] = want.rewrite(str(commands["domains"]))
    return with_machine(case, files=files, paths=paths, commands=commands)


def in_force(commands: Mapping[str, str | Answer], path: str, text: str) -> dict[str, str]:
    """What sshd, KVM and auditctl say once their settings are read."""
    if path == SSHD_DROP_IN:
        settings = dict(line.split(" ", 1) for line in str(commands["sshd-settings"]).strip().splitlines())
        settings |= dict(line.split(" ", 1) for line in text.splitlines())
        return {"sshd-settings": "".join(f"{key} {value}\n" for key, value in settings.items())}
    if path == MODULE_OPTIONS:
        return {"module-parameters": text.replace("options kvm_intel nested=0", "kvm_intel.nested=N")}
    return {"audit-rules": text} if path.startswith("/etc/audit/") else {}
