# SPDX-License-Identifier: Apache-2.0
"""Volumes are found behind partition tables, LVM and LUKS, and what cannot be read is said."""

from __future__ import annotations

import os
import struct
import subprocess
import uuid
import zlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from donjon.errors import ConfigError, HostError
from donjon.guest_files.guest import GuestFiles, guest_files
from donjon.guest_files.places import Place, find_place, split_place
from tests.unit.guest_files.conftest import MemoryDisk, call, digests, look, make_ext, tool

MIB = 1 << 20
SECTOR = 512
LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4").bytes_le


@pytest.fixture
def ext(tmp_path: Path, source: Path) -> bytes:
    return make_ext(tmp_path / "ext", source, "-L", "root")


def mbr_entry(kind: int, first: int, sectors: int) -> bytes:
    return struct.pack("<8BII", 0, 0, 0, 0, kind, 0, 0, 0, first, sectors)


def mbr_sector(*entries: bytes) -> bytes:
    return bytes(446) + b"".join(entries).ljust(64, b"\0") + b"\x55\xaa"


def gpt(content: bytes, number: int) -> bytes:
    """A disk whose partition of that number, counted from 1, has a content."""
    first, sectors = 2048, len(content) // SECTOR
    last = first + sectors + 64
    table = bytearray(128 * 128)
    entry = LINUX + uuid.uuid4().bytes_le + struct.pack("<QQQ", first, first + sectors - 1, 0)
    table[(number - 1) * 128 : (number - 1) * 128 + len(entry)] = entry

    def header(here: int, there: int, entries: int) -> bytes:
        words = (b"EFI PART", 0x10000, 92, 0, 0, here, there, 34, last - 34)
        rest = struct.pack("<QIII", entries, 128, 128, zlib.crc32(table))
        raw = bytearray(struct.pack("<8sIIIIQQQQ", *words) + uuid.uuid4().bytes_le + rest)
        raw[16:20] = struct.pack("<I", zlib.crc32(raw))
        return bytes(raw).ljust(SECTOR, b"\0")

    disk = bytearray((last + 1) * SECTOR)
    disk[:SECTOR] = mbr_sector(mbr_entry(0xEE, 1, last))
    disk[SECTOR : 2 * SECTOR] = header(1, last, 2)
    disk[2 * SECTOR : 34 * SECTOR] = table
    disk[first * SECTOR : first * SECTOR + len(content)] = content
    disk[(last - 32) * SECTOR : last * SECTOR] = table
    disk[last * SECTOR :] = header(last, 1, last - 32)
    return bytes(disk)


def test_a_partition_of_a_gpt_goes_by_its_number(ext: bytes, source: Path) -> None:
    disk = MemoryDisk(gpt(ext, 3))
    seen = look([("vda", disk)], "vda3")
    assert [(volume.name, volume.label) for volume in seen.volumes] == [("vda3", "root")]
    assert seen.contents == digests(source)
    assert look([("nvme0n1", disk)], "nvme0n1p3", "empty").volumes[0].name == "nvme0n1p3"


def test_an_old_signature_does_not_hide_the_partitions(ext: bytes, source: Path) -> None:
    for offset, magic in ((0, b"XFSB"), (1080, b"\x53\xef"), (4086, b"SWAPSPACE2"), (1024, b"LABELONE")):
        disk = bytearray(2048 * SECTOR + len(ext))
        disk[2048 * SECTOR :] = ext
        disk[:SECTOR] = mbr_sector(mbr_entry(0x83, 2048, len(ext) // SECTOR))
        disk[offset : offset + len(magic)] = magic
        if magic == b"LABELONE":
            disk[1048:1056] = b"LVM2 001"
        assert look([("vda", MemoryDisk(bytes(disk)))], "vda1").contents == digests(source)


def test_a_file_system_on_a_whole_disk_has_no_partitions(tmp_path: Path, ext: bytes) -> None:
    tables = [mbr_entry(0x83, 2048, 1 << 30), mbr_entry(0, 1, 1), bytes(range(16))]
    for table in tables:
        disk = bytearray(ext)
        disk[:SECTOR] = mbr_sector(table)
        with guest_files([("vda", MemoryDisk(bytes(disk)))]) as guest:
            assert [(volume.name, volume.readable) for volume in guest.volumes] == [("vda", True)]


def test_a_gpt_without_its_protective_entry_is_an_old_one(ext: bytes, source: Path) -> None:
    disk = bytearray(gpt(b"\1" * MIB, 3))
    first = len(disk) // SECTOR
    disk[:SECTOR] = mbr_sector(mbr_entry(0x83, first, len(ext) // SECTOR))
    assert look([("vda", MemoryDisk(bytes(disk) + ext))], "vda1").contents == digests(source)


def test_logical_partitions_of_an_mbr_begin_with_5(ext: bytes, source: Path) -> None:
    sectors = len(ext) // SECTOR
    extended, second = 4096, sectors + 4096
    disk = bytearray((extended + 2 * second) * SECTOR)
    disk[:SECTOR] = mbr_sector(mbr_entry(0x83, 2048, 1024), mbr_entry(0x5, extended, 2 * second))
    at = extended * SECTOR
    disk[at : at + SECTOR] = mbr_sector(mbr_entry(0x83, 2048, sectors), mbr_entry(0x5, second, second))
    disk[at + 2048 * SECTOR : at + 2048 * SECTOR + len(ext)] = ext
    at += second * SECTOR
    disk[at : at + SECTOR] = mbr_sector(mbr_entry(0x83, 2048, sectors))
    disk[at + 2048 * SECTOR : at + 2048 * SECTOR + len(ext)] = ext
    seen = look([("sda", MemoryDisk(bytes(disk)))], "sda6")
    assert [volume.name for volume in seen.volumes] == ["sda1", "sda5", "sda6"]
    assert seen.contents == digests(source)


def physical_volume(name: str, text: str, size: int) -> bytearray:
    """A physical volume with one metadata area."""
    disk = bytearray(size)
    ids = name.ljust(32, "0").encode()
    areas = struct.pack("<QQQQQQQQ", MIB, 0, 0, 0, 4096, MIB - 4096, 0, 0)
    disk[512:544] = b"LABELONE" + struct.pack("<QII", 1, 0, 32) + b"LVM2 001"
    disk[544 : 584 + len(areas)] = ids + struct.pack("<Q", size) + areas
    body = text.encode()
    header = b" LVM2 x[5A%r0N*>" + struct.pack("<IQQ", 1, 4096, MIB - 4096)
    raw = struct.pack("<QQII", 512, len(body), zlib.crc32(body), 0)
    disk[4096 : 4096 + 4 + len(header) + len(raw)] = bytes(4) + header + raw
    disk[4096 + 512 : 4096 + 512 + len(body)] = body
    return disk


def group_text(segments: dict[str, str]) -> str:
    """The description of the volume group vg0 of two physical volumes with extents of 1 MiB."""
    volumes = "".join(
        f'{name} {{ id = "{name.ljust(32, "0")}"\nstatus = ["READ", "VISIBLE"]\nsegment_count = 1\n{segment}\n}}\n'
        for name, segment in segments.items()
    )
    physical = "".join(
        f'{pv} {{ id = "{pv}{"0" * 3}-{"0" * 26}"\ndevice = "/dev/{pv}" # Hint only\npe_start = 2048\n}}\n'
        for pv in ("pv0", "pv1")
    )
    return (
        f'vg0 {{ id = "x"\nseqno = 3\nextent_size = 2048\nphysical_volumes {{ {physical} }}\n'
        f'logical_volumes {{ {volumes} }}\n}}\n# Generated\ncontents = "Text Format Volume Group"\n'
    )


def segment(kind: str, extents: int, stripes: str, more: str = "") -> str:
    return (
        f'segment1 {{ start_extent = 0\nextent_count = {extents}\ntype = "{kind}"\n{more}\nstripes = [ {stripes} ] }}'
    )


def test_logical_volumes_are_put_together_from_their_physical_ones(ext: bytes, source: Path) -> None:
    extents = len(ext) // MIB
    text = group_text(
        {
            "root": segment("striped", extents, '"pv1", 2', "stripe_count = 1 # linear"),
            "fast": segment("striped", extents, '"pv0", 0, "pv1", 12', "stripe_size = 128"),
            "thin": segment("thin", extents, '"pv0", 0'),
        }
    )
    disks = [physical_volume(name, text, 40 * MIB) for name in ("pv0", "pv1")]
    disks[1][3 * MIB : 3 * MIB + len(ext)] = ext
    stripe = 128 * SECTOR
    for number in range(len(ext) // stripe):
        disk, start = (disks[0], MIB) if number % 2 == 0 else (disks[1], 13 * MIB)
        at = start + number // 2 * stripe
        disk[at : at + stripe] = ext[number * stripe : (number + 1) * stripe]
    both = [("vdb", MemoryDisk(bytes(disks[1]))), ("vda", MemoryDisk(bytes(disks[0])))]
    seen = look(both, "vg0/fast")
    assert seen.contents == digests(source)
    assert look(both, "vg0/root").contents == digests(source)
    unreadable = {volume.name: volume.unreadable for volume in seen.volumes if volume.unreadable}
    assert list(unreadable) == ["vg0/thin"]
    assert "type thin" in unreadable["vg0/thin"]
    alone = {v.name: v.unreadable for v in look(both[:1], "vg0/root").volumes}
    assert "pv0 is not in the restore point" in alone["vg0/fast"]


def test_volume_groups_of_one_name_are_kept_apart(ext: bytes, source: Path) -> None:
    text = group_text({"root": segment("striped", len(ext) // MIB, '"pv0", 0')})
    disks = []
    for number, name in enumerate(("one", "two")):
        disk = physical_volume("pv0", text.replace('id = "x"', f'id = "{name}00-0000"'), 20 * MIB)
        disk[MIB : MIB + len(ext)] = ext if number else bytes(len(ext))
        disks.append((f"vd{number}", MemoryDisk(bytes(disk))))
    with guest_files(disks) as guest:
        assert {volume.name: volume.content for volume in guest.volumes} == {
            "vg0.one000/root": "empty",
            "vg0.two000/root": "ext",
        }
    assert look(disks, "vg0.two000/root").contents == digests(source)


def test_a_physical_volume_that_is_there_twice_is_said_to_be(ext: bytes) -> None:
    text = group_text({"root": segment("striped", len(ext) // MIB, '"pv0", 0')})
    disk = physical_volume("pv0", text, 20 * MIB)
    disk[MIB : MIB + len(ext)] = ext
    with guest_files([(name, MemoryDisk(bytes(disk))) for name in ("vda", "vdb")]) as guest:
        assert [(volume.name, volume.readable) for volume in guest.volumes] == [("vdb", False), ("vg0/root", True)]
        assert "same id" in guest.volumes[0].unreadable


def test_luks_2_opens_with_its_passphrase_only(tmp_path: Path, ext: bytes, source: Path) -> None:
    image, passphrase, key = tmp_path / "luks", tmp_path / "passphrase", os.urandom(64)
    passphrase.write_text("sesam")
    with image.open("wb") as file:
        file.truncate(16 * MIB + len(ext))
    (tmp_path / "key").write_bytes(key)
    words = "--pbkdf argon2id --pbkdf-memory 32768 --pbkdf-force-iterations 4 --cipher aes-xts-plain64 --key-size 512"
    key_file = ["--master-key-file", str(tmp_path / "key"), "--sector-size", "4096"]
    call("cryptsetup", "-q", "luksFormat", "--type", "luks2", *words.split(), *key_file, image, passphrase)
    disk = bytearray(image.read_bytes())
    offset = len(disk) - len(ext)
    for at in range(0, len(ext), 4096):
        seal = Cipher(algorithms.AES(key), modes.XTS((at // SECTOR).to_bytes(16, "little"))).encryptor()
        disk[offset + at : offset + at + 4096] = seal.update(ext[at : at + 4096])
    disks = [("vda", MemoryDisk(bytes(disk)))]
    assert look(disks, "vda", passphrases=("wrong", "sesam")).contents == digests(source)
    with guest_files(disks, ["wrong"]) as guest:
        assert [(v.content, v.unreadable) for v in guest.volumes] == [("LUKS", "no passphrase given opens it")]
        with pytest.raises(HostError, match="no passphrase given opens it"):
            find_place(guest, "/vda/etc")


def test_what_is_not_a_file_system_is_named(tmp_path: Path) -> None:
    swap, btrfs = tmp_path / "swap", bytearray(MIB)
    swap.write_bytes(bytes(MIB))
    subprocess.run([tool("mkswap"), "-q", swap], check=True, capture_output=True)
    btrfs[0x10040:0x10048] = b"_BHRfS_M"
    disks = {"a": swap.read_bytes(), "b": bytes(btrfs), "c": bytes(MIB), "d": os.urandom(MIB)}
    with guest_files([(name, MemoryDisk(content)) for name, content in disks.items()]) as guest:
        assert [volume.content for volume in guest.volumes] == ["swap", "btrfs", "empty", "unknown"]
        assert [bool(volume.unreadable) for volume in guest.volumes] == [False, True, False, True]


def test_a_path_leads_to_the_volume_it_names_or_to_the_only_one_that_has_it(tmp_path: Path, ext: bytes) -> None:
    (tmp_path / "other" / "etc").mkdir(parents=True)
    (tmp_path / "other" / "srv").mkdir()
    other = make_ext(tmp_path / "image", tmp_path / "other")

    def place(guest: GuestFiles, path: str) -> Place | None:
        return find_place(guest, path)

    with guest_files([("vda", MemoryDisk(ext)), ("vdb", MemoryDisk(other))]) as guest:
        assert place(guest, "/") is None
        assert place(guest, "/vdb/etc") == Place("vdb", ("etc",))
        assert place(guest, "/etc/hostname") == Place("vda", ("etc", "hostname"))
        assert place(guest, "/srv") == Place("vdb", ("srv",))
        with pytest.raises(ConfigError, match="several volumes"):
            place(guest, "/etc")
        with pytest.raises(ConfigError, match="no volume"):
            place(guest, "/nowhere")


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("web01", ("web01", "/")),
        ("web01:", ("web01", "/")),
        ("web01@latest:/etc/a:/b", ("web01@latest", "/etc/a:/b")),
        ("web01@2026-11-23T08:00:/etc", ("web01@2026-11-23T08:00", "/etc")),
    ],
)
def test_a_path_is_behind_the_restore_point(spec: str, parts: tuple[str, str]) -> None:
    assert split_place(spec) == parts
