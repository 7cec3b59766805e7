# SPDX-License-Identifier: Apache-2.0
"""Guests whose system is spread over several volumes: what is on a volume that is not found is unknown, not absent."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from donjon.audit.fact import Absent, Known, Unknown, need
from donjon.audit.guest.inspect import inspect_disks, inspect_image
from lab.gold_image import write_tree
from lab.programs import run
from tests.system.test_gold import CountingDisk


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root without its /var, and /var beside it."""
    root = write_tree(tmp_path_factory.mktemp("guest") / "root")
    (root / "var").rename(root.parent / "var")
    (root / "var").mkdir()
    return root


def ext4(source: Path, disk: Path, label: str = "") -> tuple[str, CountingDisk]:
    with disk.open("wb") as file:
        file.truncate(16 << 20)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-L", label, "-d", source, disk)
    return disk.name, CountingDisk(disk)


def root_with(tree: Path, fstab: str, folder: Path) -> tuple[str, CountingDisk]:
    root = Path(shutil.copytree(tree, folder / "root", symlinks=True))
    (root / "etc/fstab").write_text(f"UUID=1 / ext4 defaults 0 1\n{fstab}\n")
    return ext4(root, folder / "vda")


@pytest.mark.parametrize("device", ["LABEL=guestvar", "UUID=8f7e", "/dev/vdb"])
def test_a_var_of_its_own_is_found(device: str, tree: Path, tmp_path: Path) -> None:
    root = root_with(tree, f"{device} /var ext4 defaults 0 2", tmp_path)
    guest = inspect_disks([root, ext4(tree.parent / "var", tmp_path / "vdb", "guestvar")])
    packages = need(guest.packages.all)
    assert packages.keys() == {"adduser", "libssl3"}
    assert "/var/log/syslog: log" in need(guest.leftovers)


def test_without_the_disk_of_var_nobody_says_that_there_are_no_leftovers(tree: Path, tmp_path: Path) -> None:
    guest = inspect_disks([root_with(tree, "UUID=8f7e /var ext4 defaults 0 2", tmp_path)])
    gone = Unknown("the volume of /var was not found")
    assert guest.packages.all == guest.leftovers == guest.identities["dbus machine-id"] == gone
    assert isinstance(guest.identities["machine-id"], Known)


def test_a_link_to_nowhere_is_unknown_where_a_file_that_is_not_there_is_absent(tree: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tree, tmp_path / "copy", symlinks=True))
    (root / "etc/machine-id").unlink()
    (root / "etc/machine-id").symlink_to("/elsewhere/machine-id")
    shutil.rmtree(root / "etc/iscsi")
    guest = inspect_disks([root_with(root, "", tmp_path)])
    assert guest.identities["machine-id"] == Unknown("/etc/machine-id leads to nothing, or to another volume")
    assert isinstance(guest.identities["iscsi initiator"], Absent)


def test_a_disk_without_a_system_says_what_is_on_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    ext4(tmp_path / "data", tmp_path / "vda")
    guest = inspect_image(tmp_path / "vda", "raw")
    assert guest.accounts == Unknown("no Linux system was found; volumes: disk (ext)")


def test_a_directory_that_is_damaged_hides_nothing(tree: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tree, tmp_path / "copy", symlinks=True))
    shutil.rmtree(root / "home/ann/.ssh")
    name, _ = root_with(root, "", tmp_path)
    block = int(run("debugfs", "-R", "blocks /root", tmp_path / name).split()[0])
    size = int(run("dumpe2fs", "-h", tmp_path / name).split("Block size:")[1].split()[0])
    # The first entry of the directory is 3 bytes long, says its header; that makes no sense.
    damage = {block * size + 4: 3, block * size + 5: 0}
    guest = inspect_disks([(name, CountingDisk(tmp_path / name, damage))])
    assert isinstance(guest.secrets, Unknown)
    assert guest.secrets.reason.startswith("/root")
