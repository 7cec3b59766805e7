# SPDX-License-Identifier: Apache-2.0
"""Fixes of the host: what fails a control passes once it is fixed; what nobody can fix safely is left to a person."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from donjon.audit.fact import Known
from donjon.audit.facts.sshd import AuthorizedKey
from donjon.audit.profile import Allow, LogServer, Profile
from donjon.harden.boot_options import with_option
from donjon.harden.change import Command, Edit, Permissions
from donjon.harden.fixes import fixes
from donjon.harden.fixes.acc import SSHD_CONFIG, SSHD_DROP_IN
from tests.unit.audit.control_cases import Answer, Machine, host_of
from tests.unit.harden.fix_cases import (
    ACCOUNTS,
    DEBIAN,
    GRUB_10,
    HASH,
    UNITS,
    a_case,
    changes_of,
    edited,
    failures,
    fixed,
    refused,
    the_change,
    with_machine,
)
from tests.unit.harden.scratch_host import finding

PASSING = [
    *(("BOOT-06", name) for name in ("written by others", "written by a group", "owned by somebody", "hash readable")),
    *(("BOOT-10", name) for name in ("old init: a shell on a serial port",)),
    ("BOOT-10", "old init: single-user mode without password"),
    *(("ACC-06", name) for name in ("as installed", "ssh-rsa beside better ones")),
    *(("CFG-12", name) for name in ("xenstored for everybody", "an admin socket for a group")),
    ("CFG-12", "a monitor that everybody reaches"),
    *(("CFG-01", name) for name in ("a definition that everybody reads", "a group that can write")),
    ("CFG-01", "a file that belongs to a user"),
    *(("CFG-02", name) for name in ("everybody reads a guest's configuration, and its password",)),
    ("CFG-02", "everybody writes to a script"),
    ("CFG-02", "what xl keeps of running guests"),
    *(("CFG-03", name) for name in ("everybody reads a VM's configuration", "the agent's database")),
    ("CFG-03", "an agent's file that belongs to a user"),
    *(("CFG-04", name) for name in ("everybody reads libvirt's key", "a key for a group")),
    ("CFG-11", "everybody can write to the folder of images"),
    ("HYP-05", "defined without"),
    ("HYP-08", "qemu.conf has no filter"),
    *(("HYP-14", name) for name in ("a guest has it", "a guest's model with vmx", "no guest has it")),
    *(("HYP-17", name) for name in ("KVM for everybody", "a group of vfio open")),
    *(("LOG-02", name) for name in ("no rules", "only who reads", "a rule that suppresses")),
    *(("LOG-03", name) for name in ("switched off", "nobody listens")),
    *(("LOG-07", name) for name in ("QEMU writes it itself", "without limit", "more than agreed")),
    ("LOG-07", "Xen logs guests, and nothing rotates it"),
    ("LOG-07", "what guests of Xen print can be read"),
    ("MIN-11", "xl takes memory from dom0"),
    *(("PAT-11", name) for name in ("a source is trusted whoever signed it", "the same in deb822")),
    ("PAT-11", "apt is told to install unsigned packages"),
    ("PAT-11", "yum without gpgcheck anywhere"),
    ("PAT-11", "one repository of dnf does not check"),
]


@pytest.mark.parametrize(("control", "name"), PASSING)
def test_what_failed_passes_once_it_is_fixed(control: str, name: str) -> None:
    case = a_case(control, name)
    changes = changes_of(control, case)
    assert changes
    assert failures(control, fixed(case, changes)) == []


@pytest.mark.parametrize(
    ("control", "name", "machine"),
    [
        ("HYP-08", "qemu.conf says root", {"commands": ACCOUNTS}),
        ("MIN-08", "everybody may run it", {"commands": ACCOUNTS}),
        ("MIN-08", "allow all", {"commands": ACCOUNTS}),
    ],
)
def test_what_failed_passes_where_accounts_for_qemu_are(control: str, name: str, machine: dict[str, object]) -> None:
    case = with_machine(a_case(control, name), **machine)
    assert failures(control, fixed(case, changes_of(control, case))) == []


def test_a_helper_joins_only_bridges_that_are_named() -> None:
    change = the_change("MIN-08", with_machine(a_case("MIN-08", "allow all"), commands=ACCOUNTS))
    assert edited(change, "/etc/qemu-kvm/bridge.conf", "allow br9\nallow  all # all\ndeny eth0\n") == (
        "allow br9\ndeny eth0\n"
    )
    assert [want.owner for want in change.wants if isinstance(want, Permissions)] == ["root:kvm"]


SULOGIN = 'ExecStart=-/bin/sh -c "/sbin/sulogin; systemctl --job-mode=fail --no-block default"'


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        (
            "autologin in a drop-in",
            "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --keep-baud 115200 - $TERM\n",
            "[Service]\nExecStart=\nExecStart=-/sbin/agetty --keep-baud 115200 - $TERM\n",
        ),
        (
            "autologin by its short option",
            "[Service]\nExecStart=-/sbin/agetty -a root - $TERM\n",
            "[Service]\nExecStart=-/sbin/agetty - $TERM\n",
        ),
        (
            "rescue shell without password",
            "[Service]\nExecStart=\nExecStart=-/bin/bash\n",
            f"[Service]\nExecStart=\n{SULOGIN}\n",
        ),
        (
            "rescue shell when root is locked",
            "[Service]\nEnvironment=SYSTEMD_SULOGIN_FORCE=1\nType=idle\n",
            "[Service]\nType=idle\n",
        ),
    ],
)
def test_consoles_ask_for_a_password_whatever_their_drop_in_said(name: str, before: str, after: str) -> None:
    case = a_case("BOOT-10", name)
    change = the_change("BOOT-10", case)
    path = failures("BOOT-10", case)[0].subject
    assert edited(change, path, before) == after


def test_no_shell_without_password_is_left_in_inittab() -> None:
    change = the_change("BOOT-10", a_case("BOOT-10", "old init: a shell on a serial port"))
    assert edited(change, "/etc/inittab", "1:2:respawn:/sbin/mingetty tty1\nco:2:respawn:/bin/sh\n") == (
        "1:2:respawn:/sbin/mingetty tty1\n#co:2:respawn:/bin/sh\n"
    )


def test_boot_entries_need_a_password_to_be_edited_but_none_to_be_booted() -> None:
    case = with_machine(a_case("BOOT-05", "anybody edits", profile=Profile("case", grub_password=HASH)), files=DEBIAN)
    change = the_change("BOOT-05", case)
    assert f"password_pbkdf2 root {HASH}" in edited(change, "/etc/grub.d/01_donjon")
    assert edited(change, "/etc/grub.d/10_linux", GRUB_10) == GRUB_10.replace('os"', 'os --unrestricted"')
    with pytest.raises(ValueError, match="ask for the password at each boot"):
        edited(change, "/etc/grub.d/10_linux", "echo menuentry\n")


@pytest.mark.parametrize("password", ["", "secret", HASH + "\nset root=x", "x; reboot"])
def test_without_a_sound_hash_the_boot_loader_is_left_alone(password: str) -> None:
    profile = Profile("case", grub_password=password)
    assert refused("BOOT-05", with_machine(a_case("BOOT-05", "anybody edits", profile=profile), files=DEBIAN))


def test_red_hats_boot_loader_gets_its_hash_by_a_file_of_its_own() -> None:
    case = a_case("BOOT-05", "Red Hat's grub.cfg before a password is set", profile=Profile("", grub_password=HASH))
    assert edited(the_change("BOOT-05", case), "/boot/grub2/user.cfg") == f"GRUB2_PASSWORD={HASH}\n"


def test_systemd_boot_lets_nobody_edit() -> None:
    case = a_case("BOOT-05", "systemd-boot with editor")
    path = "/boot/efi/loader/loader.conf"
    assert edited(the_change("BOOT-05", case), path, "timeout 3\neditor yes\n") == "editor no\ntimeout 3\n"


def test_an_option_is_taken_from_where_the_boot_loader_has_it_from() -> None:
    change = the_change("HYP-11", a_case("HYP-11", "all off, at the next start"))
    text = "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet mitigations=off ro\"\nGRUB_CMDLINE_LINUX='mitigations=off'\n"
    assert edited(change, "/etc/default/grub", text) == (
        "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet ro\"\nGRUB_CMDLINE_LINUX=''\n"
    )
    assert "update-grub" in change.activate[0]


def test_an_option_is_taken_from_entries_that_people_write() -> None:
    entry = "/boot/loader/entries/a.conf"
    said = f"file {entry}\n{entry}:3:options root=/dev/sda1 kvm-intel.vmentry_l1d_flush=never quiet\n"
    case = with_machine(a_case("HYP-11", "all off, at the next start"), commands={"boot-loader": said, "cmdline": "ro"})
    text = "title A\nlinux /vmlinuz\noptions root=/dev/sda1 kvm_intel.vmentry_l1d_flush=never quiet\n"
    change = the_change("HYP-11", case)
    assert edited(change, entry, text) == "title A\nlinux /vmlinuz\noptions root=/dev/sda1 quiet\n"


@pytest.mark.parametrize(
    ("place", "known"),
    [("/boot/grub2/grubenv:2:kernelopts=", False), ("/boot/efi/EFI/redhat/grub.cfg:9:linux /vmlinuz ", True)],
)
def test_an_option_is_taken_from_all_places_or_from_none(place: str, known: bool) -> None:
    said = f"file /boot/grub2/grub.cfg\n/boot/grub2/grub.cfg:9:linux /vmlinuz pti=off\n{place}root=UUID=1 pti=off\n"
    case = with_machine(a_case("HYP-11", "all off, at the next start"), commands={"boot-loader": said, "cmdline": "ro"})
    assert [len(change.activate) for change in changes_of("HYP-11", case)] == ([2] if known else [])


def test_an_option_that_somebody_typed_at_the_console_gives_an_instruction() -> None:
    assert refused("HYP-11", a_case("HYP-11", "nospectre_v1"))


def test_an_option_is_added_where_grub_reads_a_folder() -> None:
    loader: dict[str, str | Answer] = {"boot-loader": "file /boot/grub/grub.cfg\n"}
    change = with_option(host_of(Machine(kinds="X", files=DEBIAN, commands=loader)), "xen", "ucode=scan")
    assert change
    assert edited(change, "/etc/default/grub.d/donjon.cfg") == 'GRUB_CMDLINE_XEN="$GRUB_CMDLINE_XEN ucode=scan"\n'
    fedora = {"/etc/os-release": "ID=fedora\n"}
    assert with_option(host_of(Machine(files=fedora, commands=loader)), "linux", "intel_iommu=on") is None


def key_of(user: str) -> AuthorizedKey:
    return AuthorizedKey(user, f"/home/{user}/.ssh/authorized_keys", (), "ssh-ed25519", 256, "AAAA")


def test_root_has_no_password_over_ssh_and_nobody_else_if_an_admin_has_a_key() -> None:
    case = with_machine(a_case("ACC-05", "root with a password"), commands={"ssh-version": "OpenSSH_9.2p1\n"})
    facts = host_of(case.machine)
    assert [one.subject for one in failures("ACC-05", case)] == ["sshd"]
    keyless = replace(facts, sshd=replace(facts.sshd, authorized_keys=Known((), "")))
    change = fixes()["ACC-05"](failures("ACC-05", case)[0], keyless, case.profile)
    assert change
    assert edited(change, SSHD_DROP_IN) == "permitrootlogin prohibit-password\n"
    with_key = replace(facts, sshd=replace(facts.sshd, authorized_keys=Known((key_of("root"),), "")))
    change = fixes()["ACC-05"](failures("ACC-05", case)[0], with_key, case.profile)
    assert change
    assert failures("ACC-05", fixed(case, [change])) == []


def test_settings_of_an_old_sshd_go_into_its_only_file() -> None:
    case = a_case("ACC-06", "an old server can do no better, which is a warning")
    paths = {want.path for change in changes_of("ACC-06", case) for want in change.wants if isinstance(want, Edit)}
    assert paths == {SSHD_CONFIG}


def test_sshd_offers_little_besides_a_shell_to_admins_that_are_named() -> None:
    case = a_case("ACC-07", "as installed: X11")
    assert [one.subject for one in failures("ACC-07", fixed(case, changes_of("ACC-07", case)))] == ["allowusers"]
    named = replace(case, profile=Profile("case", allow=Allow(admins=("root", "ana"))))
    assert failures("ACC-07", fixed(named, changes_of("ACC-07", named))) == []
    hostile = replace(case, profile=Profile("case", allow=Allow(admins=("ana\nPermitRootLogin yes",))))
    assert "allowusers" not in {change.title for change in changes_of("ACC-07", hostile)}
    assert not any("allowusers" in edited(change, SSHD_DROP_IN) for change in changes_of("ACC-07", hostile))


def test_logs_leave_for_the_server_of_the_profile() -> None:
    running = "process\t1\t0\t0\t1\trsyslogd\t/usr/sbin/rsyslogd\t\trsyslogd\nend"
    case = with_machine(a_case("LOG-04", "stays here"), commands={"processes": running})
    assert refused("LOG-04", case)
    case = replace(case, profile=Profile("case", log_server=LogServer("logs.example.org", ca="/etc/ssl/ca.pem")))
    absent = tuple(path for path in case.machine.absent if "rsyslog.d" not in path)
    after = fixed(with_machine(case, absent=(*absent, "/etc/rsyslog.d/*.conf")), changes_of("LOG-04", case))
    assert failures("LOG-04", after) == []
    assert refused("LOG-04", replace(case, profile=Profile("case", log_server=LogServer('x" target="evil'))))


def test_a_program_that_keeps_the_time_is_told_whom_to_follow() -> None:
    units = {
        "init": UNITS,
        "unit-files": "chrony.service enabled\n",
        "units": "chrony.service loaded active running c\n",
    }
    case = with_machine(a_case("LOG-06", "not synchronised"), commands=units, files=DEBIAN)
    assert refused("LOG-06", case)
    told = replace(case, profile=Profile("case", time_servers=("192.0.2.7", "bad name; reboot")))
    assert (
        edited(the_change("LOG-06", told), "/etc/chrony/chrony.conf", "pool x") == "pool x\nserver 192.0.2.7 iburst\n"
    )
    assert refused("LOG-06", a_case("LOG-06", "far off"))


@pytest.mark.parametrize(
    "unit",
    [
        "sshd.service",
        "NetworkManager.service",
        "libvirtd.service",
        "virtlogd.socket",
        "iscsid.service",
        "wg-quick@a.service",
    ],
)
def test_no_service_is_switched_off_on_which_a_way_to_the_host_hangs(unit: str) -> None:
    facts = host_of(Machine(commands={"init": UNITS}))
    assert fixes()["MIN-02"](finding("MIN-02", unit), facts, Profile("case")) is None
    assert fixes()["MIN-02"](finding("MIN-02", "cups.service"), facts, Profile("case"))
    allowed = Profile("case", allow=Allow(services=("cups*",)))
    assert fixes()["MIN-02"](finding("MIN-02", "cups.service"), facts, allowed) is None
    assert fixes()["MIN-02"](finding("MIN-02", "a;reboot.service"), facts, Profile("case")) is None


def test_daemons_that_guests_would_notice_are_not_started_anew() -> None:
    assert refused("PAT-09", a_case("PAT-09", "xenstored cannot be restarted"))
    (again,) = the_change("PAT-09", a_case("PAT-09", "libvirtd was upgraded and not restarted")).wants
    assert isinstance(again, Command)
    assert again.do.startswith("with_guests ")
    for daemon in ("ovs-vswitchd", "swtpm", "xenconsoled"):
        assert fixes()["PAT-09"](finding("PAT-09", daemon), host_of(Machine()), Profile("case")) is None


def test_package_sources_are_asked_and_nothing_is_installed() -> None:
    case = with_machine(a_case("PAT-03", "never fetched"), commands={"packages": "deb\nii \ta\t1\tall\ta\t1\nend\n"})
    (fetch,) = the_change("PAT-03", case).wants
    assert isinstance(fetch, Command)
    assert fetch.do.startswith("apt-get -q update ")


def test_a_listener_on_loopback_or_unseen_gives_an_instruction() -> None:
    assert refused("MIN-03", with_machine(a_case("MIN-03", "a database on loopback"), commands={"init": UNITS}))
    unseen = a_case("MIN-03", "something at a port that nothing should have, and nobody knows what")
    assert refused("MIN-03", with_machine(unseen, commands={"init": UNITS}))


def test_systemds_resolver_stops_listening_to_the_neighbourhood() -> None:
    change = the_change("MIN-03", a_case("MIN-03", "LLMNR of a fresh Debian"))
    assert (
        edited(change, "/etc/systemd/resolved.conf", "[Resolve]\n#LLMNR=yes\n") == "[Resolve]\n#LLMNR=yes\nLLMNR=no\n"
    )
