# SPDX-License-Identifier: Apache-2.0
"""Gold images: what is inside, seals that stock ssh-keygen verifies, and how far clones have gone from them."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
from datetime import UTC, date, datetime
from pathlib import Path

import msgspec
import pytest

from donjon.audit.backup_source import inspect_guests, newest_points, read_backup
from donjon.audit.bundle import Bundle, Manifest, Output
from donjon.audit.fact import Absent, Known, Unknown, need
from donjon.audit.facts.guests import Gold, Guest, Secret
from donjon.audit.facts.host import read_host
from donjon.audit.guest.inspect import MOST_BYTES, inspect_disks, inspect_image
from donjon.audit.judge import judge
from donjon.audit.profile import Profile
from donjon.audit.verdict import Status
from donjon.errors import HostError, RefusedError
from donjon.gold.register import Register
from donjon.gold.seal import diff, read_gold, seal, verify
from donjon.repository.repository import Repository
from donjon.repository.stores.local import LocalStore
from donjon.state.drills import Drills
from lab.gold_image import AWS_KEY, INITIATOR, MACHINE_ID, PASSWORD_HASH, RANDOM_PASSWORD, make_disk, write_tree
from lab.guest import define, definition
from lab.guest_kit import GuestKit
from lab.programs import run
from tests.system.admin import Admin
from tests.system.admin import Guest as Vm

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PRIVATE_KEY = "private key"


class CountingDisk:
    """A raw image that counts what is read of it; bytes at some places may be others."""

    def __init__(self, image: Path, instead: dict[int, int] | None = None) -> None:
        self.size = image.stat().st_size
        self.got = 0
        self._image = image
        self._instead = instead or {}

    def read(self, offset: int, length: int) -> bytes:
        self.got += length
        with self._image.open("rb") as file:
            file.seek(offset)
            content = bytearray(file.read(length))
        for place, value in self._instead.items():
            if offset <= place < offset + len(content):
                content[place - offset] = value
        return bytes(content)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def built(tree: Path) -> Path:
    return make_disk(tree, tree.parent / "built.raw")


@pytest.fixture
def image(built: Path, tmp_path: Path) -> Path:
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", built, tmp_path / "base.qcow2")
    return tmp_path / "base.qcow2"


@pytest.fixture
def register(tmp_path: Path) -> Register:
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key")
    (tmp_path / "signers").write_text(f"ops@example {(tmp_path / 'key.pub').read_text()}")
    return Register(tmp_path / "register")


def sealed(image: Path, register: Register) -> Gold:
    folder = register.directory.parent
    seal(image, register, folder / "key", builder="ops", now=NOW)
    return verify(image, register, folder / "signers")


def test_what_a_careless_builder_left_inside_is_found(image: Path) -> None:
    guest = inspect_image(image)
    assert need(guest.release).pretty == "Debian GNU/Linux 12 (bookworm)"
    assert {name: one.version for name, one in need(guest.packages.all).items()} == {
        "adduser": "3.134",
        "libssl3": "3.0.17-1~deb12u2",
    }
    assert need(guest.secrets) == (
        Secret("/home/ann/.ssh/authorized_keys", "authorized keys"),
        Secret("/home/ann/.ssh/id_ed25519", PRIVATE_KEY),
        Secret("/root/.aws/credentials", "AWS key"),
        Secret("/root/.aws/credentials", "cloud credentials"),
        Secret("/root/.bash_history", "shell history"),
        Secret("/etc/app/settings.conf", "something like a password", certain=False),
    )
    assert [key.path for key in need(guest.host_keys)] == ["/etc/ssh/ssh_host_ed25519_key"]
    assert [(one.name, one.password) for one in need(guest.accounts)] == [
        ("root", "yescrypt"),
        ("daemon", "locked"),
        ("ann", "locked"),
    ]
    assert need(guest.leftovers) == (
        "/etc/hostname: host name",
        "/etc/resolv.conf: name server",
        "/var/lib/dhcp/dhclient.leases: DHCP lease",
        "/var/log/syslog: log",
    )
    assert {name for name, fact in guest.identities.items() if isinstance(fact, Known)} == {
        "machine-id",
        "iscsi initiator",
    }
    assert isinstance(guest.identities["dbus machine-id"], Absent)
    assert need(guest.units) == ("ssh.service",)
    assert need(guest.kernels) == ("6.1.0-40-amd64",)
    assert need(guest.agent).blocked == ("guest-exec", "guest-exec-status")
    assert need(guest.authorized_keys) == {"/home/ann/.ssh/authorized_keys": 1}


def test_no_secret_leaves_the_image(image: Path, tree: Path) -> None:
    said = msgspec.json.encode(inspect_image(image)).decode()
    private = (tree / "home/ann/.ssh/id_ed25519").read_text().splitlines()[1]
    for secret in (PASSWORD_HASH, PASSWORD_HASH[-20:], AWS_KEY, RANDOM_PASSWORD, MACHINE_ID, INITIATOR, private):
        assert secret not in said


def test_little_is_read(built: Path) -> None:
    disk = CountingDisk(built)
    guest = inspect_disks([("vda", disk)])
    assert isinstance(guest.configs, Known)
    assert disk.got <= MOST_BYTES // 4


def test_a_guest_with_too_much_to_look_at_is_unknown(tree: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tree, tmp_path / "root", symlinks=True))
    for number in range(500):
        (root / f"root/note{number}").write_text("nothing of interest\n")
    shutil.rmtree(root / "root/.aws")
    shutil.rmtree(root / "home/ann/.ssh")
    (root / "root/.bash_history").unlink()
    guest = inspect_image(make_disk(root, tmp_path / "many.raw"), "raw")
    assert guest.secrets == Unknown("there are too many files in /root")
    assert isinstance(guest.accounts, Known)


def test_a_seal_is_proven_by_stock_ssh_keygen_and_by_us(image: Path, register: Register, built: Path) -> None:
    gold = sealed(image, register)
    assert need(gold.signature).good
    assert need(gold.sha256) == hashlib.sha256(built.read_bytes()).hexdigest()
    (text,) = register.directory.glob("*.json")
    words = ["-Y", "verify", "-f", str(register.directory.parent / "signers"), "-I", "ops@example", "-n", "donjon-gold"]
    with text.open("rb") as file:
        done = subprocess.run(["ssh-keygen", *words, "-s", f"{text}.sig"], stdin=file, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_changed_seal_and_a_foreign_key_are_found_out(image: Path, register: Register) -> None:
    sealed(image, register)
    folder = register.directory.parent
    (text,) = register.directory.glob("*.json")
    text.write_bytes(text.read_bytes().replace(b'"builder": "ops"', b'"builder": "eve"'))
    assert not need(verify(image, register, folder / "signers").signature).good
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "other")
    seal(image, register, folder / "other", builder="eve", now=NOW)
    assert not need(verify(image, register, folder / "signers").signature).good
    Path(f"{text}.sig").unlink()
    assert need(verify(image, register, folder / "signers").signature).reason == "there is none"


def test_an_image_that_somebody_writes_to_is_not_sealed(image: Path, register: Register) -> None:
    pid = image.with_name("pid")
    run("qemu-nbd", "--fork", "--pid-file", pid, "-k", image.with_name("nbd"), "-f", "qcow2", "-t", image)
    try:
        with pytest.raises(RefusedError, match="open for writing"):
            seal(image, register, image.parent / "key", builder="ops", now=NOW)
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_a_key_that_cannot_be_used_leaves_no_seal(image: Path, register: Register) -> None:
    with pytest.raises(HostError, match="cannot sign"):
        seal(image, register, image.parent / "missing", builder="ops", now=NOW)
    assert list(register.entries()) == []


def statuses(gold: tuple[Gold, ...] | None, guests: dict[str, Guest]) -> dict[str, Status]:
    bundle = Bundle(
        Manifest(host="host1", started="2026-11-23T11:00:00+00:00"),
        {
            "hypervisors": Output(0, "libvirt-qemu\n"),
            "domains": Output(0, "@autostart\n@persistent\n@there\n@end\n"),
        },
    )
    host = msgspec.structs.replace(read_host(bundle), gold=gold, guests=guests)
    controls = [f"GLD-{number:02}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 12)]
    report = judge([host], Profile("test"), date(2026, 11, 23), controls)
    return {one.control: one.status for one in report.results}


def test_a_careless_image_fails_and_one_cleaned_of_all_passes(
    image: Path, register: Register, tree: Path, tmp_path: Path
) -> None:
    sealed(image, register)
    image.chmod(0o444)
    gold = read_gold(register, tmp_path / "signers")
    judged = statuses(gold, {})
    assert {control for control, status in judged.items() if status is Status.FAIL} == {
        "GLD-03",
        "GLD-04",
        "GLD-05",
        "GLD-06",
        "GLD-07",
    }
    assert judged["GLD-01"] is judged["GLD-02"] is judged["GLD-12"] is Status.PASS
    assert judged["GLD-08"] is Status.UNKNOWN
    clean = make_disk(cleaned(tree, tmp_path / "clean"), tmp_path / "clean.raw")
    shutil.rmtree(register.directory)
    sealed(clean, register)
    clean.chmod(0o444)
    judged = statuses(read_gold(register, tmp_path / "signers"), {})
    assert {control for control, status in judged.items() if status is not Status.PASS} == {"GLD-08"}


def cleaned(tree: Path, root: Path) -> Path:
    """The same files without what does not belong into a gold image."""
    shutil.copytree(tree, root, symlinks=True)
    for name in ("root/.aws", "home/ann/.ssh", "var/lib/dhcp", "etc/app"):
        shutil.rmtree(root / name)
    for name in ("root/.bash_history", "etc/resolv.conf", "var/log/syslog", "etc/iscsi/initiatorname.iscsi"):
        (root / name).unlink()
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    (root / "etc/hostname").write_text("localhost\n")
    (root / "etc/machine-id").write_text("")
    (root / "etc/shadow").write_text("root:*:19000::::::\nann:!:19000::::::\n")
    return root


def test_what_a_started_image_and_a_declared_one_without_seal_look_like(image: Path, register: Register) -> None:
    sealed(image, register)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 200M 64k", image)
    other = image.with_name("other.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", other)
    image.rename(image.with_name("moved"))
    image.with_name("moved").rename(image)
    (gold, unsealed) = read_gold(register, image.parent / "signers", [other])
    judged = statuses((gold,), {})
    assert judged["GLD-01"] is judged["GLD-02"] is Status.FAIL
    assert isinstance(unsealed.seal, Absent)
    image.unlink()
    (gone, dangling) = read_gold(register, other.parent / "signers", [other])
    assert statuses((gone,), {})["GLD-01"] is Status.UNKNOWN
    assert statuses((dangling,), {})["GLD-12"] is Status.FAIL


def test_a_clone_that_was_changed_is_told_from_one_that_was_not(
    image: Path, register: Register, built: Path, tree: Path, tmp_path: Path
) -> None:
    gold = need(sealed(image, register).seal)
    clone = tmp_path / "clone.raw"
    run("cp", "--sparse=always", built, clone)
    assert diff(gold, inspect_image(clone, "raw"), ["/etc/sudoers*"]).score == 0
    root = Path(shutil.copytree(tree, tmp_path / "changed", symlinks=True))
    (root / "etc/sudoers.d").mkdir()
    (root / "etc/sudoers.d/eve").write_text("eve ALL=(ALL) NOPASSWD: ALL\n")
    with (root / "etc/passwd").open("a") as file:
        file.write("eve:x:1001:1001::/home/eve:/bin/sh\n")
    status = (root / "var/lib/dpkg/status").read_text()
    (root / "var/lib/dpkg/status").write_text(status.replace("Version: 3.134", "Version: 3.135"))
    drift = diff(gold, inspect_image(make_disk(root, clone), "raw"), ["/etc/sudoers.d/*"])
    assert (drift.forbidden, drift.users.added, drift.packages.changed) == (
        ("/etc/sudoers.d/eve",),
        ("eve",),
        ("adduser",),
    )
    assert drift.unknown == {}


def test_a_guest_in_a_restore_point_says_the_same_as_its_disk(
    built: Path, admin: Admin, guest_kit: GuestKit, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.raw"
    run("cp", "--sparse=always", built, disk)
    uri = admin.environment["LIBVIRT_DEFAULT_URI"]
    define(uri, definition(guest_kit, "web1", {"vda": (disk, "raw")}, tmp_path / "console"))
    vm = Vm(uri, "web1", {"vda": disk})
    try:
        admin.donjon("backup", "web1")
    finally:
        vm.remove()
    repository = Repository.open(LocalStore(admin.repository), "correct horse")
    ((uuid, (_, point)),) = newest_points([repository]).items()
    (guest,) = inspect_guests([repository], [uuid, "no such VM"]).values()
    on_disk = inspect_disks([("vda", CountingDisk(disk))])
    assert msgspec.structs.replace(guest, source="") == on_disk
    backup = read_backup([repository], Drills(tmp_path / "drills"), (), NOW)
    assert need(backup.restore_points) == {uuid: point.taken_at.astimezone(UTC).isoformat(timespec="seconds")}
    assert need(backup.drills) == {}


@pytest.mark.parametrize("kind", ["ext4", "xfs", "ntfs", "fat"])
def test_damaged_and_hostile_disks_end_in_unknown_and_never_in_a_crash(kind: str, tree: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    make_file_system(kind, tree, disk)
    chance = random.Random(kind)
    size = disk.stat().st_size
    written = [at for at in range(0, min(size, 64 << 20), 4096) if any(CountingDisk(disk).read(at, 4096))]
    for _ in range(12):
        places = [chance.choice(written) + chance.randrange(4096) for _ in range(chance.choice((1, 30, 3000)))]
        counting = CountingDisk(disk, {place: chance.randrange(256) for place in places})
        guest = inspect_disks([("vda", counting)])
        assert isinstance(guest, Guest)
        assert counting.got <= MOST_BYTES
        assert msgspec.json.decode(msgspec.json.encode(guest), type=Guest) == guest


def make_file_system(kind: str, tree: Path, disk: Path) -> None:
    size_mib = {"ext4": 16, "xfs": 300, "ntfs": 16, "fat": 16}[kind]
    with disk.open("wb") as file:
        file.truncate(size_mib << 20)
    if kind == "ext4":
        run("mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, disk)
    elif kind == "xfs":
        passwd = tree / "etc/passwd"
        proto = disk.with_name("proto")
        proto.write_text(f"/\n0 0\nd--755 0 0\netc d--755 0 0\npasswd ---644 0 0 {passwd}\n$\n$\n")
        run("mkfs.xfs", "-q", "-p", proto, disk)
    else:
        run(*{"ntfs": ("mkntfs", "-F", "-Q", "-q"), "fat": ("mkfs.vfat",)}[kind], disk)
