# SPDX-License-Identifier: Apache-2.0
"""`donjon files`: single files out of a restore point."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Cli


@pytest.fixture
def vm(cli: Cli, home: Path) -> Cli:
    """web01 has a restore point; its disk has an ext4."""
    mke2fs = shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin")
    if mke2fs is None:
        pytest.skip("mke2fs is not installed")
    (home / "source" / "etc" / "nginx").mkdir(parents=True)
    (home / "source" / "etc" / "hostname").write_text("web01\n")
    (home / "source" / "etc" / "nginx" / "nginx.conf").write_text("user www;\n")
    os.utime(home / "source" / "etc" / "hostname", (981173106, 981173106))
    subprocess.run([mke2fs, "-q", "-F", "-t", "ext4", "-d", home / "source", home / "disk", "4M"], check=True)
    assert cli("backup", "web01", "--disk", f"vda={home / 'disk'}").exit_code == 0
    return cli


def test_volumes_directories_and_names_are_listed(vm: Cli) -> None:
    volumes = vm("files", "ls", "web01:", "--json").json["volumes"]
    assert [(volume["path"], volume["content"], volume["readable"]) for volume in volumes] == [("/vda", "ext", True)]
    files = vm("files", "ls", "web01@latest:/etc", "--json").json["files"]
    assert [(file["path"], file["kind"], file["size"]) for file in files] == [
        ("/vda/etc/hostname", "file", 6),
        ("/vda/etc/nginx", "directory", 0),
    ]
    assert files[0]["modified"] == "2001-02-03T04:05:06Z"
    found = vm("files", "find", "web01:/vda", "--name", "*.conf")
    assert found.out.endswith("/vda/etc/nginx/nginx.conf\n")
    assert len(found.out.splitlines()) == 1


def test_a_directory_comes_back_once(vm: Cli, home: Path) -> None:
    assert vm("files", "get", "web01:/etc", "--to", home / "back").exit_code == 0
    assert (home / "back" / "etc" / "nginx" / "nginx.conf").read_text() == "user www;\n"
    again = vm("files", "get", "web01:/etc", "--to", home / "back")
    assert (again.exit_code, "it exists" in again.err) == (1, True)


def test_dots_in_a_path_lead_to_a_name_and_never_out_of_the_directory(vm: Cli, home: Path) -> None:
    (home / "back").mkdir()
    before = sorted(home.iterdir())
    for path, name in (("/vda/etc/..", "vda"), ("/vda/etc/nginx/..", "etc"), ("/vda/etc/../etc/nginx/.", "nginx")):
        done = vm("files", "get", f"web01:{path}", "--to", home / "back", "--force", "--json")
        assert done.json["path"] == str(home / "back" / name)
    assert sorted(path.name for path in (home / "back").iterdir()) == ["etc", "nginx", "vda"]
    assert sorted(home.iterdir()) == before


def test_one_file_is_printed(vm: Cli) -> None:
    assert vm("files", "get", "web01:/etc/hostname", "-o", "-").raw == b"web01\n"


def test_an_archive_goes_to_a_file_or_to_standard_output(vm: Cli, home: Path) -> None:
    assert vm("files", "tar", "web01:/vda/etc/nginx", "-o", home / "nginx.tar").exit_code == 0
    printed = vm("files", "tar", "web01:/vda/etc/nginx").raw
    assert printed == (home / "nginx.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(printed)) as tar:
        assert tar.getnames() == ["etc/nginx", "etc/nginx/nginx.conf"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ls", "web01:/nowhere"), "no volume that can be read has it"),
        (("ls", "web01:/vda/nowhere"), "cannot find /vda/nowhere"),
        (("ls", "web02:/etc"), "cannot find a restore point of 'web02'"),
        (("tar", "web01:"), "no path is named"),
        (("get", "web01:/etc", "-o", "-"), "no regular file"),
        (("get", "web01:/etc", "-o", "file"), "-o takes - only"),
        (("ls", "web01:", "--luks-passphrase-file", "missing"), "cannot read the password file"),
    ],
)
def test_what_cannot_be_done_is_said(vm: Cli, words: tuple[str, ...], said: str) -> None:
    done = vm("files", *words)
    assert (done.exit_code, done.raw) == (1, b"")
    assert said in done.err
