# SPDX-License-Identifier: Apache-2.0
"""What cannot be done is said in a sentence, ends with the documented code, and leaves everything as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from donjon.repository.format.config import Config
from donjon.repository.format.crypto import seal
from donjon.repository.repository import Repository
from donjon.repository.stores.local import LocalStore
from tests.unit.cli.conftest import BLOCK, PASSWORD, Cli, Outcome, make_qcow2, make_raw, write_qcow2

BACKUP = ("backup", "web01", "--disk", "vda=a.img")


def check_refusal(outcome: Outcome, exit_code: int, *words: str) -> None:
    """One sentence and perhaps a hint; no traceback, no secret."""
    assert outcome.exit_code == exit_code, outcome.err
    message = outcome.err.splitlines()[-2 if "hint: " in outcome.err else -1]
    assert message.startswith("donjon: ")
    assert [word for word in words if word not in outcome.err] == []
    assert "Traceback" not in outcome.err
    assert PASSWORD not in outcome.err
    assert outcome.raw == b""


@pytest.mark.parametrize("verb", [("list",), ("check",), BACKUP, ("restore", "web01", "--to-dir", "x")])
def test_where_there_is_no_repository(fresh: Cli, home: Path, verb: tuple[str, ...]) -> None:
    make_raw(home / "a.img", {0: b"x"})
    check_refusal(fresh(*verb), 10, "there is none", "donjon init")
    assert not (home / "x").exists()


def test_a_wrong_password(cli: Cli) -> None:
    check_refusal(cli("list", DONJON_PASSWORD="wrong guess"), 12, "wrong password")
    assert "wrong guess" not in cli("list", DONJON_PASSWORD="wrong guess").err


def test_a_repository_of_a_newer_version(cli: Cli, home: Path) -> None:
    config = home / "repo/config"
    repository = Repository.open(LocalStore(home / "repo"), PASSWORD)
    newer = Config(version=3, id=repository.config.id, chunker_polynomial=repository.config.chunker_polynomial)
    config.chmod(0o600)
    config.write_bytes(
        seal(
            repository.key,
            json.dumps(
                {"version": newer.version, "id": newer.id, "chunker_polynomial": newer.chunker_polynomial}
            ).encode(),
        )
    )
    check_refusal(cli("list"), 1, "version 3", "newer donjon")


@pytest.mark.parametrize("damage", ["one bit", "empty"])
def test_a_damaged_config(cli: Cli, home: Path, damage: str) -> None:
    config = home / "repo/config"
    content = bytearray(config.read_bytes())
    content[40] ^= 1
    config.chmod(0o600)
    config.write_bytes(content if damage == "one bit" else b"")
    check_refusal(cli("list"), 1, str(home / "repo"))


@contextmanager
def mounted(path: Path, *words: str) -> Iterator[None]:
    done = subprocess.run(["mount", *words, path], check=False, capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.root
def test_a_read_only_repository_can_be_listed_but_not_written(cli: Cli, home: Path) -> None:
    content = make_raw(home / "a.img", {0: b"x"})
    cli(*BACKUP)
    repository = home / "repo"
    with mounted(repository, "--bind", str(repository)):
        subprocess.run(["mount", "-o", "remount,bind,ro", repository], check=True)
        check_refusal(cli(*BACKUP), 1, "is read-only")
        assert cli("list").exit_code == 0
        assert cli("check", "--no-lock").exit_code == 0
        for words in (("restore", "web01", "--to", "-"), ("show", "web01"), ("diff", "web01", "web01"), ("stats",)):
            check_refusal(cli(*words), 1, "--no-lock")
            assert cli(*words, "--no-lock").exit_code == 0
        assert cli("restore", "web01", "--to", "-", "--no-lock").raw == content


@pytest.mark.root
def test_a_full_disk_loses_nothing(fresh: Cli, home: Path) -> None:
    repository = home / "repo"
    repository.mkdir()
    with mounted(repository, "-t", "tmpfs", "-o", "size=6m", "donjon-test"):
        assert fresh("init").exit_code == 0
        (home / "a.img").write_bytes(os.urandom(4 * BLOCK))
        assert fresh(*BACKUP).exit_code == 0
        (home / "b.img").write_bytes(os.urandom(40 * BLOCK))
        check_refusal(fresh("backup", "web02", "--disk", "vda=b.img"), 1, "repository is full")
        assert fresh("check", "--read-data", "--no-lock").exit_code == 0
        assert [point["vm_name"] for point in fresh("list", "--json").json["restore_points"]] == ["web01"]
        assert fresh("restore", "web01", "--to", "-").raw == (home / "a.img").read_bytes()


def test_an_image_that_is_missing(cli: Cli) -> None:
    check_refusal(cli(*BACKUP), 1, "a.img", "does not exist")


def test_an_image_that_is_a_directory(cli: Cli, home: Path) -> None:
    (home / "a.img").mkdir()
    check_refusal(cli(*BACKUP), 1, "a.img", "is a directory")


@pytest.mark.root
def test_an_image_without_permission(cli: Cli, home: Path) -> None:
    make_raw(home / "a.img", {0: b"x"}, size=BLOCK)
    (home / "a.img").chmod(0)
    powerless = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"]
    donjon = [sys.executable, "-c", "from donjon.cli.main import main; raise SystemExit(main())"]
    done = subprocess.run(
        [*powerless, *donjon, *BACKUP], env={**os.environ, **cli.environ}, check=False, capture_output=True, text=True
    )
    check_refusal(Outcome(done.returncode, done.stdout.encode(), done.stderr), 1, "a.img: no permission")


@pytest.fixture
def in_use(home: Path) -> Iterator[Path]:
    """An image that a process has open for writing."""
    image = home / "a.img"
    make_qcow2(image)
    socket = home / "nbd.sock"
    server = subprocess.Popen(["qemu-nbd", "-t", "-k", socket, "-f", "qcow2", image])
    try:
        while not socket.exists():
            time.sleep(0.02)
        yield image
    finally:
        server.terminate()
        server.wait()


def test_an_image_in_use(cli: Cli, in_use: Path) -> None:
    check_refusal(cli("backup", "web01", "--disk", f"vda={in_use}"), 1, str(in_use), "open for writing")


def test_a_restore_onto_an_image_in_use(cli: Cli, home: Path, in_use: Path) -> None:
    make_raw(home / "b.img", {0: b"x"})
    cli("backup", "web01", "--disk", "vda=b.img")
    outcome = cli("restore", "web01", "--to", in_use, "--force")
    check_refusal(outcome, 1, str(in_use), "open for writing")


def test_an_unknown_format(cli: Cli, home: Path) -> None:
    make_raw(home / "a.img", {0: b"x"})
    check_refusal(cli("backup", "web01", "--disk", "vda=a.img,format=wim"), 1, "wim")


def test_a_backing_file_that_is_gone(cli: Cli, home: Path) -> None:
    make_qcow2(home / "base.qcow2")
    overlay = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", "top.qcow2"]
    subprocess.run(overlay, check=True, cwd=home)
    (home / "base.qcow2").unlink()
    check_refusal(cli("backup", "web01", "--disk", "vda=top.qcow2"), 1, "base.qcow2", "No such file or directory")


@pytest.mark.parametrize("size", [1, 511, BLOCK + 1, 3 * BLOCK - 513])
def test_a_size_that_is_no_multiple_of_a_sector_is_kept_exactly(cli: Cli, home: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    (home / "a.img").write_bytes(content)
    assert cli("backup", "web01", "--disk", "vda=a.img,format=raw").exit_code == 0
    assert cli("restore", "web01", "--to", "-").raw == content
    assert cli("restore", "web01", "--to", "out.img").exit_code == 0
    assert (home / "out.img").read_bytes() == content


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("this is no XML", "definition"),
        ("<network><name>a</name></network>", "<network>"),
        ("<!DOCTYPE d [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><domain><name>&e;</name></domain>", "definition"),
        ("<domain><name>other</name></domain>", "other"),
        ("<domain></domain>", "<name>"),
    ],
)
def test_a_definition_that_is_none(cli: Cli, home: Path, text: str, word: str) -> None:
    (home / "vm.xml").write_text(text, encoding="utf-8")
    make_raw(home / "a.img", {0: b"x"})
    outcome = cli(*BACKUP, "--definition", "vm.xml")
    check_refusal(outcome, 1, word)
    assert "root:" not in outcome.err
    assert cli("list", "--json").json["restore_points"] == []


def test_a_restore_target_that_exists(cli: Cli, home: Path) -> None:
    content = make_raw(home / "a.img", {0: b"x"})
    cli(*BACKUP)
    (home / "out.img").write_bytes(b"precious")
    check_refusal(cli("restore", "web01", "--to", "out.img"), 1, "out.img", "it exists", "--force")
    assert (home / "out.img").read_bytes() == b"precious"
    assert cli("restore", "web01", "--to", "out.img", "--force").exit_code == 0
    assert (home / "out.img").read_bytes() == content
    (home / "dir").mkdir()
    (home / "dir/web01-vda.raw").write_bytes(b"precious")
    check_refusal(cli("restore", "web01", "--to-dir", "dir"), 1, "web01-vda.raw", "it exists")
    assert (home / "dir/web01-vda.raw").read_bytes() == b"precious"


@pytest.mark.root
def test_a_device_is_overwritten_only_by_order_and_only_if_it_is_large_enough(cli: Cli, home: Path) -> None:
    content = make_raw(home / "a.img", {0: b"x"})
    cli(*BACKUP)
    for size, exit_code in ((len(content) - 512, 1), (len(content), 0)):
        (home / "disk").write_bytes(b"\xff" * size)
        with loop_device(home / "disk") as device:
            check_refusal(cli("restore", "web01", "--to", device), 1, device, "--force")
            assert cli("restore", "web01", "--to", device, "--force").exit_code == exit_code
    assert (home / "disk").read_bytes() == content


@contextmanager
def loop_device(path: Path) -> Iterator[str]:
    done = subprocess.run(["losetup", "--find", "--show", path], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no loop devices: {done.stderr.strip()}")
    try:
        yield done.stdout.strip()
    finally:
        subprocess.run(["losetup", "--detach", done.stdout.strip()], check=True)


def test_a_restore_point_that_is_not_there(cli: Cli, home: Path) -> None:
    make_qcow2(home / "a.img")
    write_qcow2(home / "a.img", 0, 1)
    cli(*BACKUP)
    check_refusal(cli("show", "web1"), 1, "'web1'", "web01")
    check_refusal(cli("show", "web01@2001-01-01"), 1, "2001-01-01")
    check_refusal(cli("restore", "web01", "--disk", "vdx", "--to", "x"), 1, "vdx", "vda")


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (("bakcup", "web01"), "backup"),
        (("backup", "--al"), "--all"),
        (("key", "lsit"), "list"),
        (("list", "--objects", "pakcs"), "packs"),
        (("backup",), "--all"),
        (("backup", "a", "--shutdown", "--suspend"), "suspend"),
        (("backup", "a", "--compression", "20"), "1 to 19"),
        (("backup", "a", "--disk", "a.img"), "TARGET=PATH"),
        (("backup", "a", "b", "--disk", "vda=a.img"), "one VM"),
        (("restore", "a"), "--in-place"),
        (("restore", "a", "--to", "x", "--to-dir", "y"), "once"),
        (("restore", "a", "--in-place", "--force"), "--to"),
        (("check", "--read-data-subset", "9/7"), "2/7"),
    ],
)
def test_words_that_make_no_sense(cli: Cli, words: tuple[str, ...], nearest: str) -> None:
    check_refusal(cli(*words), 1, nearest)


def test_a_refusal_in_json_says_the_same(fresh: Cli, home: Path) -> None:
    outcome = fresh("list", "--json")
    assert outcome.exit_code == 10
    assert outcome.json == {
        "error": f"cannot open a repository at {home}/repo: there is none",
        "hint": "check the address; `donjon init` makes a new repository",
        "exit_code": 10,
        "notes": [],
    }
    assert fresh("lsit", "--json").json["exit_code"] == 1
