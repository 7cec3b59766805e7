# SPDX-License-Identifier: Apache-2.0
"""What the fixes of the areas GST, GNW, STO, GLD and BKP want makes their controls pass, and touches nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from donjon.audit.fact import Known, Unseen
from donjon.audit.facts.backup import Backup, Owed
from donjon.audit.profile import Networks, Profile
from donjon.audit.verdict import Status
from donjon.harden.apply import State, apply, rollback
from donjon.harden.change import Command, Edit, Permissions
from donjon.harden.fixes import fixes
from tests.unit.audit.control_cases import Answer, Machine, all_cases, host_of, results_of
from tests.unit.harden.scenes import IMAGE, OTHER, QEMU, UUID, Scene, guest, image, program, vm
from tests.unit.harden.scratch_host import ScratchHost, finding

FOLDER = "/var/lib/libvirt/images"
SECRET = "/etc/libvirt/secrets/6f1d0c2a-0000-4000-8000-000000000005.xml"
UNIT = "/etc/systemd/system/donjon-nightly.service"
MOUNTS = "30 1 8:2 / /var/lib/libvirt/images rw,relatime - ext4 /dev/sdb1 rw\n"

CONSOLE = """\
    <graphics type='vnc' port='5907' autoport='no' listen='0.0.0.0'>
      <listen type='address' address='0.0.0.0'/>
    </graphics>
"""
SERIAL = """\
    <serial type='tcp'>
      <source mode='bind' host='0.0.0.0' service='2445'/>
      <protocol type='telnet'/>
      <target type='isa-serial' port='0'>
        <model name='isa-serial'/>
      </target>
    </serial>
"""
DISK = """\
    <disk type='file' device='disk'>
      <driver name='qemu'/>
      <source file='/var/lib/libvirt/images/a.img'/>
      <target dev='vda' bus='virtio'/>
    </disk>
"""
CD = """\
    <disk type='file' device='cdrom'>
      <driver name='qemu' type='raw'/>
      <source file='/srv/debian.iso'/>
      <target dev='sda' bus='sata'/>
      <readonly/>
    </disk>
"""
FLOPPY = """\
    <disk type='file' device='floppy'>
      <driver name='qemu' type='raw'/>
      <source file='/srv/f.img'/>
      <target dev='fda' bus='fdc'/>
    </disk>
    <controller type='fdc' index='0'/>
    <sound model='ich9'/>
"""
SHARE = """\
    <filesystem type='mount' accessmode='passthrough'>
      <source dir='/etc'/>
      <target dir='etc'/>
    </filesystem>
"""
CARD = """\
    <interface type='bridge' trustGuestRxFilters='yes'>
      <mac address='52:54:00:00:00:01'/>
      <source bridge='br0'/>
      <model type='virtio'/>
    </interface>
"""
FIRST = CARD.replace("    </interface>", "      <boot order='1'/>\n    </interface>")
SWITCHED = CARD.replace(" trustGuestRxFilters='yes'", "").replace(
    "<model", "<virtualport type='openvswitch'/>\n      <model"
)
RAW = """\
  <qemu:commandline>
    <qemu:arg value='-chardev'/>
    <qemu:arg value='socket,id=m,host=0.0.0.0,port=4444,server=on'/>
    <qemu:arg value='-mon'/>
    <qemu:arg value='chardev=m,mode=readline'/>
    <qemu:arg value='-s'/>
    <qemu:arg value='-device'/>
    <qemu:arg value='edu'/>
  </qemu:commandline>
"""
RAW_CPU = "  <cpu mode='custom' match='exact' check='none'>\n    <model fallback='forbid'>qemu64</model>\n  </cpu>\n"
CPU = (
    "  <cpu mode='custom' match='exact' check='none'>\n    <model fallback='forbid'>Skylake-Client</model>\n  </cpu>\n"
)


GUESTS = [
    (guest("GST-01", CONSOLE), ["listen='127.0.0.1'", "address='127.0.0.1'"]),
    (guest("GST-04", SERIAL), ["    <serial type='pty'>\n      <target type='isa-serial' port='0'>\n"]),
    (guest("GST-05", tail=RAW), ["<qemu:commandline>\n    <qemu:arg value='-s'/>\n    <qemu:arg value='-device'/>\n"]),
    (guest("GST-06", tail=RAW), ["<qemu:arg value='-mon'/>", "<qemu:arg value='-device'/>"]),
    (guest("GST-10", SHARE), ["      <target dir='etc'/>\n      <readonly/>\n    </filesystem>\n"]),
    (guest("GST-12", DISK), ["<driver type='raw' name='qemu'/>"]),
    (guest("GST-14", DISK, CD, os="network"), ["<boot dev='hd'/>", "device='cdrom'"]),
    (guest("GST-14", DISK, FIRST, os=""), ["<interface type='bridge'"]),
    (guest("GST-15", DISK, FLOPPY), ["device='disk'"]),
    (guest("GST-18", head=RAW_CPU), ["  <cpu mode='host-model' check='partial'/>\n"]),
    (guest("GST-18", head=CPU), ["Skylake-Client", "    <feature policy='require' name='md-clear'/>\n"]),
    (guest("GST-20", head="  <on_crash>coredump-restart</on_crash>\n"), ["<on_crash>restart</on_crash>"]),
    (guest("GNW-02", CARD), ["<interface type='bridge'>", "<filterref filter='no-mac-spoofing'/>"]),
    (guest("GNW-03", CARD, CARD.replace("br0", "br1")), ["<mac address='52:54:00:00:00:01'/>", "br1"]),
]


@pytest.mark.parametrize(("scene", "said"), GUESTS, ids=[scene.control for scene, _ in GUESTS])
def test_a_definition_is_changed_so_that_its_control_passes(scene: Scene, said: list[str]) -> None:
    changes = scene.changes
    assert changes
    assert all(change.guests == ("web1",) and "started the next time" in change.note for change in changes)
    after = scene.after(*changes)
    assert {one.status for one in after.judgement.results} == {Status.PASS}, after.judgement.results
    assert all(words in after.definitions[UUID] for words in said), after.definitions[UUID]


def test_only_what_had_to_go_is_gone_from_a_definition() -> None:
    scene = guest("GST-15", DISK, FLOPPY, SHARE)
    assert scene.after(*scene.changes).definitions[UUID] == vm(DISK + SHARE)


def test_raw_arguments_of_which_none_is_left_go_altogether() -> None:
    scene = guest("GST-06", tail="  <qemu:commandline>\n    <qemu:arg value='-s'/>\n  </qemu:commandline>\n")
    assert scene.after(*scene.changes).definitions[UUID] == vm()


def test_of_two_vms_with_one_address_one_gets_a_new_one() -> None:
    scene = guest("GNW-03", CARD)
    scene.definitions[OTHER] = vm(CARD, uuid=OTHER, name="web2")
    first, second = scene.failures
    with pytest.raises(Unseen, match="web1 keeps its address"):
        fixes()["GNW-03"](first, scene.host, scene.profile)
    change = fixes()["GNW-03"](second, scene.host, scene.profile)
    assert change is not None
    after = scene.after(change)
    assert after.definitions[UUID] == scene.definitions[UUID]
    assert {one.status for one in after.judgement.results} == {Status.PASS}


TWO_HOSTS = Profile("x", networks=Networks(peers=("10.0.2.2",)))


@pytest.mark.parametrize(
    ("scene", "reason"),
    [
        (guest("GST-04", SERIAL.replace("'bind'", "'connect'")), "only a person can tell"),
        (guest("GST-14", CD, os="network"), "it has no disk"),
        (guest("GST-14", DISK, CD.replace("debian", "cloud-init")), "configured by at every start"),
        (guest("GST-10", SHARE.replace("      <source", "      <driver type='virtiofs'/>\n      <source")), "virtiofs"),
        (guest("GST-18", head=RAW_CPU, profile=TWO_HOSTS), "VMs move between hosts"),
        (guest("GNW-02", SWITCHED), "no filter"),
    ],
)
def test_what_is_not_safe_is_left_to_a_person(scene: Scene, reason: str) -> None:
    assert scene.failures
    with pytest.raises(Unseen, match=reason):
        assert scene.changes


def test_a_console_with_a_password_never_gets_into_a_plan() -> None:
    scene = guest("GST-01", CONSOLE)
    scene.machine.commands["domain-passwords"] = "stored\tweb1\nstored\tweb1\tvnc\tyes\t\n"
    with pytest.raises(Unseen, match="must not be in a plan"):
        assert scene.changes


def test_a_disk_that_looks_like_another_format_is_left_to_a_person() -> None:
    scene = guest("GST-12", DISK)
    scene.machine.commands["image-headers"] = f"@image {IMAGE}\n514649fb0000000300000000\n@end\n"
    with pytest.raises(Unseen):
        assert scene.changes


def storage(control: str, files: dict[str, str] | None = None) -> Scene:
    commands: dict[str, str | Answer] = {
        "domains": "@autostart\n@persistent\n@there\n@end\n",
        "images": image(IMAGE, 0o100666) + image(FOLDER, 0o040777) + "@end\n",
        "mounts": MOUNTS,
        "donjon-setup": f"program\t/usr/bin/donjon\nkeyfile\t640\troot\tbackup\t{IMAGE}\nend\n",
        "listeners": "Netid State Recv-Q Send-Q Local Address:Port Peer Address:PortProcess\n",
        "processes": "process\t1\t0\t0\t1790000000\tsystemd\t/usr/lib/systemd/systemd\t\t/sbin/init\nend\n",
    }
    texts = {
        QEMU: "#x\n",
        SECRET: f"<secret ephemeral='no' private='no'>\n  <uuid>{SECRET[21:-4]}</uuid>\n</secret>\n",
        UNIT: "[Service]\nExecStart=/usr/bin/donjon backup\n",
        **(files or {}),
    }
    absent: tuple[str, ...] = ("/etc/libvirt/*.conf", "/etc/libvirt/secrets/*.xml", "/etc/libvirt/storage/*.xml")
    absent += ("/etc/systemd/system/*donjon*", "/usr/lib/systemd/system/*donjon*", f"{UNIT}.d/*.conf")
    paths = {"/etc/libvirt/secrets": "d 0755 root:root", SECRET: "0644 root:root"}
    machine = Machine(commands=commands, files=texts, absent=absent, paths=paths, looked={"/etc/libvirt/secrets": 1})
    return Scene(control, machine)


@pytest.mark.parametrize("control", ["STO-01", "STO-02", "STO-12", "BKP-07"])
def test_permissions_and_texts_of_storage_make_its_control_pass(control: str) -> None:
    scene = storage(control)
    assert scene.failures
    after = scene.after(*scene.changes)
    assert {one.status for one in after.judgement.results} == {Status.PASS}, after.judgement.results


def test_a_file_with_a_password_becomes_roots_alone() -> None:
    scene = storage("BKP-03")
    (change,) = [one for one in scene.changes if one.wants]
    (after,) = [one for one in scene.after(change).judgement.results if one.subject == IMAGE]
    assert after.status is Status.PASS


def test_images_that_qemu_may_need_to_read_as_others_stay() -> None:
    with pytest.raises(Unseen, match="dynamic_ownership"):
        assert storage("STO-01", {QEMU: "dynamic_ownership = 0\n"}).changes


def test_a_gold_image_that_is_as_sealed_becomes_read_only_and_no_other() -> None:
    answers = {}
    for control, case in all_cases():
        for result in results_of(control, case) if control == "GLD-02" else ():
            if result.status is Status.FAIL:
                try:
                    answers[result.summary] = fixes()[control](result, host_of(case.machine), case.profile)
                except Unseen:
                    answers[result.summary] = None
    wanted = {summary: change for summary, change in answers.items() if change}
    assert list(wanted) == ["/images/base.qcow2 can be written: it should be read-only"]
    assert [change.wants for change in wanted.values()] == [(Permissions("/images/base.qcow2", at_most=0o7555),)]
    assert len(answers) > 4


def test_lvm_is_told_to_leave_disks_of_guests_alone() -> None:
    disk = DISK.replace("type='file' ", "type='block' ").replace("file='", "dev='").replace(IMAGE, "/dev/vg0/web.1")
    scene = guest("STO-08", disk)
    scene.machine.commands.update({"physical-volumes": "/dev/sda|vg0\n", "logical-volumes": "", "lvm-settings": "a=1"})
    (change,) = scene.changes
    (edit,) = change.wants
    assert isinstance(edit, Edit)
    assert edit.rewrite("# local\n") == '# local\ndevices {\n\tglobal_filter = [ "r|^/dev/vg0/web[.]1$|" ]\n}\n'
    scene.machine.commands["lvm-settings"] = 'global_filter=["a|^/dev/sda$|", "r|.*|"]\n'
    with pytest.raises(Unseen, match="already"):
        fixes()["STO-08"](finding("STO-08"), scene.host, scene.profile)


def test_a_guest_that_was_left_frozen_is_thawed() -> None:
    host = host_of(Machine(backup=Backup(owed=Known((Owed("guest.thaw", "a'b"),), "ledger"))))
    change = fixes()["BKP-08"](finding("BKP-08", "frozen"), host, Profile("x"))
    assert change is not None
    (command,) = change.wants
    assert isinstance(command, Command)
    assert command.do == """virsh domfsthaw --domain 'a'"'"'b'"""


@pytest.mark.parametrize(
    ("fstab", "becomes"),
    [
        (f"UUID=1 {FOLDER} ext4 defaults 0 2\n", f"UUID=1 {FOLDER} ext4 defaults,nodev,nosuid,noexec 0 2\n"),
        (f"/dev/sdb1\t{FOLDER}\text4\texec,nodev\n", f"/dev/sdb1\t{FOLDER}\text4\tnodev,nosuid,noexec\n"),
    ],
)
def test_mount_options_are_put_into_fstab(fstab: str, becomes: str) -> None:
    (change,) = storage("STO-07").changes
    edit = change.wants[0]
    assert isinstance(edit, Edit)
    assert edit.rewrite(fstab) == becomes
    with pytest.raises(ValueError, match="is not mounted by /etc/fstab"):
        edit.rewrite("/dev/sda1 / ext4 defaults 0 1\n")


VIRSH = """\
vms=$ROOT/vms
case $1 in
-r) cat "$vms"/*.xml | sed -n 's|^  <uuid>\\(.*\\)</uuid>|\\1|p' ;;
dumpxml) shift $(($# - 1)); cat "$vms/$1.xml" ;;
define) shift $(($# - 1)); cat "$1" >"$vms/$(sed -n 's|^  <uuid>\\(.*\\)</uuid>|\\1|p' "$1").xml" ;;
esac
"""
MOUNT = """\
[ "$1" = -o ] || exit 2
sed "s|^\\([^ ]* $3 [^ ]* \\)[^ ]*|\\1$(echo "$2" | sed 's/^remount,/rw,relatime,/')|" "$ROOT/proc/mounts" >"$ROOT/new"
sed 's/,dev,suid,exec//' "$ROOT/new" >"$ROOT/proc/mounts"
rm "$ROOT/new"
"""


def test_the_engine_does_it_all_and_gives_back_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("virsh", VIRSH), ("mount", MOUNT)):
        program(tmp_path / "bin", name, text)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin")
    host = ScratchHost(tmp_path / "host")
    scene = guest("GST-04", SERIAL, CONSOLE, SHARE)
    host.write(f"/vms/{UUID}.xml", scene.definitions[UUID])
    host.write("/proc/mounts", f"/dev/sdb1 {FOLDER} ext4 rw,relatime 0 0\n")
    host.write("/etc/fstab", f"UUID=1 {FOLDER} ext4 defaults 0 2\n")
    host.write(IMAGE, "x", 0o666)
    before = host.snapshot()
    console = scene.planned(host)
    assert apply(console, host.runner) is State.CONFIRMED
    (expected,) = scene.after(*scene.changes).definitions.values()
    assert host.at(f"/vms/{UUID}.xml").read_text() == expected
    assert rollback(console.id, host.runner) is State.REVERTED
    mounted = storage("STO-07").planned(host)
    assert apply(mounted, host.runner) is State.WAITING
    assert "nodev,nosuid,noexec" in host.at("/proc/mounts").read_text()
    assert rollback(mounted.id, host.runner) is State.REVERTED
    private = storage("STO-01").planned(host)
    assert apply(private, host.runner) is State.CONFIRMED
    assert host.at(IMAGE).stat().st_mode & 0o777 == 0o660
    assert rollback(private.id, host.runner) is State.REVERTED
    assert host.snapshot() == before
