# SPDX-License-Identifier: Apache-2.0
"""XML for backup jobs says what was asked for, whatever the names; screenshots become PNG."""

from __future__ import annotations

import struct
import zlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from donjon.errors import ConfigError, HostError
from donjon.hypervisors.document import parse_document
from donjon.hypervisors.hot_backup import Checkpoint, DiskJob
from donjon.hypervisors.libvirt.job_xml import (
    backup_socket,
    backup_xml,
    checkpoint_xml,
    console_file,
    dac_label,
    parse_checkpoint,
)
from donjon.hypervisors.libvirt.pictures import PNG_HEAD, as_png

ODD = "a b\n\"c\" 'd' & <e> Ω"
BORN = datetime(2026, 11, 23, 19, 0, tzinfo=UTC)
DOMAIN = "<domain><name>web</name>{}</domain>"


@pytest.mark.parametrize("name", ["vda", ODD])
def test_names_survive_in_jobs_and_checkpoints(name: str) -> None:
    text = backup_xml([DiskJob("vda", Path(f"/{name}/scratch"), since=name), DiskJob("vdb", Path("/b"))], f"/{name}")
    first, second = parse_document(text).iterfind("disks/disk")
    assert (first.get("backupmode"), first.get("incremental")) == ("incremental", name)
    assert (second.get("backupmode"), second.get("incremental")) == ("full", None)
    assert [scratch.get("file") for disk in (first, second) for scratch in disk] == [f"/{name}/scratch", "/b"]
    assert backup_socket(text) == f"/{name}"
    assert parse_checkpoint(checkpoint_xml(name, ["vdb", "vda"], BORN)) == Checkpoint(
        name, frozenset({"vda", "vdb"}), BORN
    )


def test_disks_that_a_checkpoint_leaves_out_are_not_its_own() -> None:
    text = """<domaincheckpoint><name>c</name><creationTime>x</creationTime>
      <disks><disk name='vda' checkpoint='bitmap'/><disk name='vdb' checkpoint='no'/></disks></domaincheckpoint>"""
    assert parse_checkpoint(text) == Checkpoint("c", frozenset({"vda"}), datetime.fromtimestamp(0, UTC))


def test_a_job_read_by_tcp_has_no_unix_socket() -> None:
    assert backup_socket("<domainbackup><server transport='tcp' name='localhost'/></domainbackup>") is None
    with pytest.raises(ConfigError):
        backup_socket("no XML")


def test_a_running_definition_says_whom_the_guest_runs_as_and_where_its_console_goes() -> None:
    text = DOMAIN.format(
        "<devices><serial type='pty'/><serial type='file'><source path='/log'/></serial></devices>"
        "<seclabel model='apparmor'><label>x</label></seclabel>"
        "<seclabel model='dac'><label>+64055:+108</label></seclabel>"
    )
    assert (dac_label(text), console_file(text)) == ("+64055:+108", "/log")
    assert (dac_label(DOMAIN.format("")), console_file(DOMAIN.format(""))) == (None, None)


def test_a_ppm_picture_becomes_a_png_of_the_same_pixels() -> None:
    pixels = bytes(range(3 * 2 * 2))
    png = as_png(b"P6\n# QEMU\n2 2\n255\n" + pixels)
    assert png.startswith(PNG_HEAD)
    assert struct.unpack_from(">II", png, 16) == (2, 2)
    (length,) = struct.unpack_from(">I", png, 33)
    assert zlib.decompress(png[41 : 41 + length]) == b"\0" + pixels[:6] + b"\0" + pixels[6:]
    assert as_png(png) == png


@pytest.mark.parametrize("picture", [b"", b"P5\n2 2\n255\n1234", b"P6\n2 2\n255\nshort", b"P6\n0 2\n255\n"])
def test_what_is_no_picture_is_an_error(picture: bytes) -> None:
    with pytest.raises(HostError, match="cannot read the screenshot"):
        as_png(picture)
