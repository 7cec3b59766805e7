# SPDX-License-Identifier: Apache-2.0
"""Fixes of the host, applied to a scratch host with stand-ins for its services: all comes back as it was."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from donjon.audit.profile import LogServer, Profile
from donjon.errors import HostError
from donjon.harden.apply import State, apply, rollback
from donjon.harden.change import Change, Edit, Permissions
from donjon.harden.fixes import fixes
from donjon.harden.plan import Plan
from donjon.harden.units import switched_off, switched_on
from tests.unit.audit.control_cases import Case, Machine, host_of
from tests.unit.harden.fix_cases import (
    DEBIAN,
    GRUB_10,
    HASH,
    UNITS,
    a_case,
    changes_of,
    the_change,
    with_machine,
)
from tests.unit.harden.scratch_host import ScratchHost, finding

FOLDERS = ("udev/rules.d", "logrotate.d", "modprobe.d", "audit/rules.d", "grub.d", "rsyslog.d", "systemd")
# Services are files below /units that say whether they are enabled and active.
SYSTEMCTL = """\
#!/bin/sh
verb=$1
for unit; do :; done
[ "$DONJON_ROOT" ] && cd "$DONJON_ROOT/units" && [ -e "$unit" ] || exit 4
read -r enabled active <"$unit"
case $verb in
is-enabled) echo "$enabled"; [ "$enabled" = enabled ] ;;
is-active) [ "$2" = --quiet ] || echo "$active"; [ "$active" = active ] ;;
enable) echo "enabled $active" >"$unit" ;;
disable) echo "disabled $active" >"$unit" ;;
start) echo "$enabled active" >"$unit" ;;
stop) [ "$unit" != auditd.service ] && echo "$enabled inactive" >"$unit" ;;
kill) echo "$enabled inactive" >"$unit" ;;
mask) echo "masked inactive" >"$unit" ;;
unmask) echo "disabled $active" >"$unit" ;;
esac
"""


@dataclass(frozen=True)
class Lab:
    host: ScratchHost
    programs: Path

    def program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def unit(self, name: str, state: str | None = None) -> str:
        if state:
            self.host.write(f"/units/{name}", f"{state}\n")
        return self.host.at(f"/units/{name}").read_text().strip()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    host = ScratchHost(tmp_path / "host")
    for folder in FOLDERS:
        host.write(f"/etc/{folder}/README", "")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    lab = Lab(host, tmp_path / "bin")
    lab.program("systemctl", SYSTEMCTL)
    for name in ("udevadm", "augenrules", "update-grub"):
        lab.program(name, "#!/bin/sh\n")
    lab.program("auditctl", "#!/bin/sh\necho enabled 1\n")
    return lab


def applied(host: ScratchHost, *changes: Change) -> Plan:
    plan = host.plan(*changes)
    assert not plan.instructions
    assert apply(plan, host.runner) in (State.CONFIRMED, State.WAITING)
    return plan


ON_A_HOST = [
    ("BOOT-06", "written by others"),
    ("CFG-01", "a definition that everybody reads"),
    ("CFG-04", "everybody reads libvirt's key"),
    ("HYP-17", "KVM for everybody"),
    ("LOG-02", "no rules"),
    ("LOG-03", "switched off"),
    ("LOG-07", "QEMU writes it itself"),
    ("PAT-11", "a source is trusted whoever signed it"),
    ("PAT-11", "one repository of dnf does not check"),
]


def bad_host(host: ScratchHost, cases: Iterable[tuple[str, Case]]) -> list[Change]:
    """What these cases say is on the host; gives what their fixes want."""
    changes = [(change, case) for control, case in cases for change in changes_of(control, case)]
    for change, case in changes:
        for path, text in case.machine.files.items():
            host.write(path, text)
        for want in change.wants:
            if isinstance(want, Permissions):
                host.write(want.path, "x", int(case.machine.paths[want.path].split()[-2], 8))
    return [change for change, _ in changes]


def test_a_plan_of_many_fixes_changes_files_and_gives_every_byte_back(lab: Lab) -> None:
    host = lab.host
    changes = bad_host(host, [(control, a_case(control, name)) for control, name in ON_A_HOST])
    before = host.snapshot()
    plan = applied(host, *changes)
    for want in (want for change in changes for want in change.wants):
        if isinstance(want, Edit):
            text = host.at(want.path).read_text()
            assert text and want.rewrite(text) == text
        elif isinstance(want, Permissions):
            assert host.at(want.path).stat().st_mode & 0o7777 & ~want.at_most == 0
    assert rollback(plan.id, host.runner) is State.REVERTED
    assert host.snapshot() == before


# SysV's: a service starts at boot if it has a file below /rc3, and runs if it holds its lock.
CHKCONFIG = """\
#!/bin/sh
case $2 in
on) install -m 644 /dev/null "$DONJON_ROOT/rc3/$1" ;;
off) rm "$DONJON_ROOT/rc3/$1" ;;
*) [ -e "$DONJON_ROOT/rc3/$1" ] ;;
esac
"""
SERVICE = """\
#!/bin/sh
case $2 in
start) install -m 644 /dev/null "$DONJON_ROOT/var/lock/subsys/$1" ;;
stop) rm "$DONJON_ROOT/var/lock/subsys/$1" ;;
esac
"""


def test_services_are_switched_off_and_on_and_come_back_as_they_were(lab: Lab) -> None:
    facts, old = (host_of(Machine(commands={"init": init})) for init in (UNITS, "sysv\n"))
    lab.program("chkconfig", CHKCONFIG)
    lab.program("service", SERVICE)
    lab.host.write("/rc3/sendmail", "")
    lab.host.write("/var/lock/subsys/sendmail", "")
    lab.host.write("/var/lock/subsys/README", "")
    lab.unit("cups.service", "enabled inactive")
    lab.unit("cups.socket", "disabled active")
    lab.unit("auditd.service", "disabled inactive")
    lab.unit("debug-shell.service", "enabled active")
    before = lab.host.snapshot()
    debug = fixes()["BOOT-10"](finding("BOOT-10", "debug-shell.service"), facts, Profile("case"))
    assert debug
    off = Change("off", (switched_off(facts, "cups.socket", "cups.service"), switched_on(facts, "auditd.service")))
    mail = fixes()["MIN-02"](finding("MIN-02", "sendmail.service"), old, Profile("case"))
    assert mail
    plan = applied(lab.host, off, debug, mail)
    assert not lab.host.at("/rc3/sendmail").exists()
    assert not lab.host.at("/var/lock/subsys/sendmail").exists()
    assert [lab.unit(name) for name in ("cups.service", "cups.socket", "auditd.service", "debug-shell.service")] == [
        "disabled inactive",
        "disabled inactive",
        "enabled active",
        "masked inactive",
    ]
    assert rollback(plan.id, lab.host.runner) is State.REVERTED
    assert lab.host.snapshot() == before


LISTENING = """\
Netid State  Recv-Q Send-Q Local Address:Port Peer Address:PortProcess
tcp   LISTEN 0      128          0.0.0.0:631      0.0.0.0:*    users:(("cupsd",pid=77,fd=3))
"""


def test_the_service_of_a_listener_is_switched_off_unless_it_must_stay(lab: Lab) -> None:
    commands = {"init": UNITS, "listeners": LISTENING}
    change = the_change("MIN-03", with_machine(a_case("MIN-03", "LLMNR of a fresh Debian"), commands=commands))
    lab.unit("cups.service", "enabled active")
    lab.unit("cups.socket", "enabled active")
    lab.host.write("/proc/77/cgroup", "0::/system.slice/sshd.service\n")
    assert "sshd.service is none that a program may stop" in lab.host.plan(change).instructions[0].reason
    lab.host.write("/proc/77/cgroup", "0::/init.scope\n")
    assert "belongs to no service" in lab.host.plan(change).instructions[0].reason
    lab.host.write("/proc/77/cgroup", "12:pids:/x\n1:name=systemd:/system.slice/system-cups.slice/cups.service\n")
    before = lab.host.snapshot()
    plan = applied(lab.host, change)
    assert "the service is cups.service" in plan.changes[0].shown
    assert (lab.unit("cups.service"), lab.unit("cups.socket")) == ("disabled inactive", "disabled inactive")
    assert rollback(plan.id, lab.host.runner) is State.REVERTED
    assert lab.host.snapshot() == before


# Makes what grub-mkconfig does of the scripts, as far as the password goes.
UPDATE_GRUB = """\
#!/bin/sh
cd "$DONJON_ROOT/etc/grub.d" || exit 1
class=$(sed -n 's/^CLASS="\\(.*\\)"/\\1/p' 10_linux)
{
    [ ! -x 01_donjon ] || ./01_donjon
    echo "menuentry 'Debian' --class debian ${class} {"
    echo "submenu 'more' {"
    echo "	menuentry 'older' --class debian OLDER {"
} | sed "s/OLDER/${class}/" >"$DONJON_ROOT/boot/grub/grub.cfg"
"""


def test_a_boot_loader_that_would_ask_at_each_boot_gets_no_password(lab: Lab) -> None:
    case = with_machine(a_case("BOOT-05", "anybody edits", profile=Profile("case", grub_password=HASH)), files=DEBIAN)
    change, host = the_change("BOOT-05", case), lab.host
    for name in ("10_linux", "20_linux_xen"):
        host.write(f"/etc/grub.d/{name}", GRUB_10, 0o755)
    host.write("/boot/grub/grub.cfg", "")
    host.write("/etc/default/grub", 'GRUB_DEFAULT="1>2"\n')
    assert "at each boot" in host.plan(change).instructions[0].reason
    host.write("/etc/default/grub", "GRUB_DEFAULT=0\n")
    lab.program("update-grub", UPDATE_GRUB.replace("${class} {", "--class gnu-linux {"))
    with pytest.raises(HostError, match="a self-test failed"):
        apply(host.plan(change), host.runner)
    assert "--unrestricted" not in host.at("/etc/grub.d/10_linux").read_text()
    lab.program("update-grub", UPDATE_GRUB)
    applied(host, change)
    assert f"password_pbkdf2 root {HASH}\n" in host.at("/boot/grub/grub.cfg").read_text()


def test_rsyslog_is_told_to_encrypt_only_where_it_can(lab: Lab) -> None:
    running = "process\t1\t0\t0\t1\trsyslogd\t/usr/sbin/rsyslogd\t\trsyslogd\nend"
    profile = Profile("case", log_server=LogServer("logs.example.org", ca="/etc/ssl/ca.pem"))
    case = with_machine(a_case("LOG-04", "stays here", profile=profile), commands={"processes": running})
    change, host = the_change("LOG-04", case), lab.host
    assert host.plan(change).instructions[0].reason == "/etc/ssl/ca.pem is not there"
    host.write("/etc/ssl/ca.pem", "")
    assert "rsyslog-gnutls" in host.plan(change).instructions[0].reason
    host.write("/usr/lib/x86_64-linux-gnu/rsyslog/lmnsd_gtls.so", "")
    plan = host.plan(change)
    assert not plan.instructions
    assert [step.title for step in plan.steps] == ["write /etc/rsyslog.d/00-donjon.conf"]
