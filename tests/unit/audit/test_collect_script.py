# SPDX-License-Identifier: Apache-2.0
"""The collector runs in every POSIX shell, keeps its limits, leaves nothing, and says what it could not see."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from donjon.audit.bundle import Bundle
from donjon.audit.collect.bundle_file import read_bundle
from donjon.audit.collect.script import assembled, script
from donjon.audit.fact import Absent, Known, Unknown

SHELLS = {"dash": ["dash"], "busybox": ["busybox", "sh"], "bash": ["bash", "--posix"]}
NOBODY = 65534
LINE = "y" * 4000
PROBES = Path(__file__).parents[3] / "src/donjon/audit/collect/probes"


def collected(
    fragment: str, folder: Path, *shell: str, user: int | None = None, env: dict[str, str] | None = None
) -> Bundle:
    """What a collector with these probes brings; it may not complain, and may not leave anything."""
    done = subprocess.run(
        [*(shell or ("dash",)), "-s"],
        input=assembled([fragment]).encode(),
        capture_output=True,
        env={**os.environ, "TMPDIR": str(folder), **(env or {})},
        user=user,
        extra_groups=None if user is None else [],
        timeout=30,
        check=True,
    )
    assert done.stderr == b""
    return read_bundle(io.BytesIO(done.stdout))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files of several kinds, one of which has a name with everything in it."""
    folder = tmp_path / "etc"
    (folder / "conf.d").mkdir(parents=True)
    (folder / "main.conf").write_text("a = 1\n")
    (folder / "empty.conf").write_text("")
    (folder / "conf.d" / "one.conf").write_text("password = hunter2\n")
    (folder / "conf.d" / "b='x y\n\"$(id)\\é.conf").write_text("strange\n")
    (folder / "link").symlink_to("main.conf")
    os.mkfifo(folder / "fifo.conf")
    (folder / "main.conf").chmod(0o640)
    os.utime(folder / "main.conf", (1_700_000_000, 1_700_000_000))
    return folder


@pytest.mark.parametrize("shell", SHELLS)
def test_probes_files_and_looks_arrive_whatever_the_shell(shell: str, tree: Path, tmp_path: Path) -> None:
    fragment = f"""
        probe hello 5 printf '%s|\\n' "a b" "c'd"
        shell piece 5 'echo out $#; echo err >&2; exit 3'
        probe nothing 5 no-such-program --x
        copy {tree}/main.conf '{tree}/conf.d/*.conf' {tree}/absent.conf {tree}/empty.conf
        look -d 2 {tree} {tree}/absent
    """
    bundle = collected(fragment, tmp_path, *SHELLS[shell])
    assert bundle.output("hello") == Known("a b|\nc'd|\n", "cmd/hello")
    piece = bundle.commands["piece"]
    assert (piece.rc, piece.out, piece.err) == (3, "out 0\n", "err\n")
    assert bundle.output("nothing") == Absent("cmd/nothing")
    strange = f"{tree}/conf.d/b='x y\n\"$(id)\\é.conf"
    assert bundle.files == {
        f"{tree}/main.conf": "a = 1\n",
        f"{tree}/empty.conf": "",
        f"{tree}/conf.d/one.conf": "password = [blanked]\n",
        strange: "strange\n",
    }
    assert bundle.text(f"{tree}/absent.conf") == Absent(f"{tree}/absent.conf")
    info = bundle.paths.seen[f"{tree}/main.conf"]
    owner = (tree / "main.conf").stat()
    assert (info.mode, info.kind, info.uid, info.size, info.mtime) == (0o640, "f", owner.st_uid, 6, 1_700_000_000)
    assert (info.user, info.group) == ((tree / "main.conf").owner(), (tree / "main.conf").group())
    assert (bundle.paths.seen[f"{tree}/link"].kind, bundle.paths.seen[f"{tree}/link"].target) == ("l", "main.conf")
    assert {bundle.paths.seen[f"{tree}/{name}"].kind for name in ("conf.d", "fifo.conf")} == {"d", "p"}
    if shell == "busybox":  # its find knows no -printf
        assert bundle.paths.below(str(tree), 2) == Unknown(f"{tree}/conf.d/b='x y: a newline in a name")
    else:
        assert bundle.paths.seen[strange].kind == "f"
    assert bundle.paths.at(f"{tree}/absent") == Absent(f"{tree}/absent")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", bundle.manifest.started)
    assert bundle.manifest.host == os.uname().nodename


def test_on_a_poor_host_it_works_too_and_what_cannot_be_told_is_unknown(tree: Path, tmp_path: Path) -> None:
    """No setsid, no mktemp, a find without -printf, no stat."""
    shims = tmp_path / "bin"
    shims.mkdir()
    for name in ("setsid", "mktemp", "stat", "find"):
        (shims / name).write_text("#!/bin/sh\nexit 1\n")
        (shims / name).chmod(0o755)
    fragment = f"probe next 5 echo here\ncopy {tree}/main.conf\nlook {tree}/main.conf"
    bundle = collected(fragment, tmp_path, env={"PATH": f"{shims}:{os.environ['PATH']}"})
    assert bundle.output("next") == Known("here\n", "cmd/next")
    assert bundle.files == {f"{tree}/main.conf": "a = 1\n"}
    assert bundle.paths.at(f"{tree}/main.conf") == Unknown(f"{tree}/main.conf: neither find nor stat can tell")


def test_what_does_not_end_in_time_is_stopped_with_all_it_started_and_is_unknown(tmp_path: Path) -> None:
    began = time.monotonic()
    bundle = collected("shell slow 0 'echo begun; sleep 987 | sleep 987'\nprobe next 5 echo here", tmp_path)
    assert time.monotonic() - began < 20
    assert bundle.output("slow") == Unknown("cmd/slow: timed out")
    assert bundle.output("next") == Known("here\n", "cmd/next")
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert b"sleep\x00987\x00" not in commands


def test_what_is_too_large_is_unknown_and_not_cut(tmp_path: Path) -> None:
    (tmp_path / "large").write_text(("x" * 600 + "\n") * 2_000)
    fragment = f"shell much 5 'yes {LINE} | head -c 5000000'\ncopy {tmp_path}/large\nprobe next 5 echo here"
    bundle = collected(fragment, tmp_path)
    assert isinstance(bundle.output("much"), Unknown)
    assert bundle.commands["much"].err == "much.out: more than 4194304 bytes\n"
    assert bundle.text(f"{tmp_path}/large") == Unknown(f"{tmp_path}/large: larger than 1048576 bytes")
    assert bundle.output("next") == Known("here\n", "cmd/next")


def test_a_probe_cannot_fill_the_host(tmp_path: Path) -> None:
    bundle = collected(f"probe flood 5 yes {LINE}", tmp_path)
    assert isinstance(bundle.output("flood"), Unknown)


@pytest.mark.parametrize("name", ["server.key", "ssh_host_rsa_key", "shadow", "gshadow-", "volume.base64", "x.keytab"])
def test_files_of_secrets_stay_on_the_host(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("hunter2")
    bundle = collected(f"copy '{tmp_path}/*'", tmp_path)
    assert bundle.text(f"{tmp_path}/{name}") == Unknown(f"{tmp_path}/{name}: secrets stay on the host")
    assert isinstance(bundle.texts(f"{tmp_path}/*"), Unknown)


@pytest.mark.parametrize("shell", SHELLS)
def test_no_secret_is_in_what_leaves_the_host(shell: str, tmp_path: Path) -> None:
    """Wherever it was printed: in a file, on standard output, on standard error."""
    (tmp_path / "vm.cfg").write_text("vfb = ['vnc=1,vncpasswd=hunter2']\n")
    fragment = f"""
        copy {tmp_path}/vm.cfg
        shell both 5 'echo "passwd=hunter2"; echo "cannot open smb://me:hunter2@host" >&2'
        probe key 5 printf '%s\\n' '-----BEGIN PRIVATE KEY-----' hunter2 '-----END PRIVATE KEY-----'
    """
    script = assembled([fragment]).encode()
    done = subprocess.run([*SHELLS[shell], "-s"], input=script, capture_output=True, check=True)
    assert b"hunter2" in script
    assert b"hunter2" not in done.stdout + done.stderr
    assert read_bundle(io.BytesIO(done.stdout)).commands["both"].out == "passwd=[blanked]\n"


@pytest.mark.root
@pytest.mark.parametrize("shell", SHELLS)
def test_what_an_ordinary_user_may_not_see_is_refused_and_not_absent(shell: str, tree: Path, tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/") and path != Path("/tmp"):
            path.chmod(0o755)
    secret = tree / "secret"
    secret.mkdir(mode=0o700)
    (secret / "a.conf").write_text("x")
    (tree / "main.conf").chmod(0o600)
    fragment = (
        f"copy {tree}/main.conf {secret}/a.conf '{secret}/*.conf' {secret}/no.conf\nlook -d 1 {secret} {secret}/a.conf"
    )
    bundle = collected(fragment, Path("/tmp"), *SHELLS[shell], user=NOBODY)
    assert bundle.manifest.user == "nobody"
    assert bundle.files == {}
    for path in (tree / "main.conf", secret / "a.conf", secret / "no.conf"):
        assert isinstance(bundle.text(str(path)), Unknown)
    assert isinstance(bundle.texts(f"{secret}/*.conf"), Unknown)
    assert isinstance(bundle.paths.at(f"{secret}/a.conf"), Unknown)
    assert isinstance(bundle.paths.below(str(secret)), Unknown)


def test_a_script_cut_short_does_nothing(tmp_path: Path) -> None:
    whole = assembled([f"shell trace 5 'echo run >>{tmp_path}/trace'\n"])
    lines = whole.splitlines(keepends=True)
    for end in (len(lines) // 2, len(lines) - 1):
        subprocess.run(["dash", "-s"], input="".join(lines[:end]).encode(), capture_output=True, check=False)
    assert not (tmp_path / "trace").exists()


def test_the_collector_knows_its_own_checksum(tmp_path: Path) -> None:
    first, _, body = assembled(["probe x 5 true\n"]).partition("\n")
    bundle = collected("probe x 5 true\n", tmp_path)
    assert bundle.manifest.sha256 == hashlib.sha256(body.encode()).hexdigest()
    assert bundle.manifest.sha256 in first


@pytest.mark.parametrize("shell", SHELLS)
def test_the_whole_collector_is_understood_by_every_shell(shell: str) -> None:
    subprocess.run([*SHELLS[shell], "-n"], input=script().encode(), check=True, capture_output=True)


def test_no_two_probes_have_the_same_name() -> None:
    fragments = [path.read_text(encoding="utf-8") for path in PROBES.glob("*.sh")]
    names = [name for text in fragments for name in re.findall(r"^\s*(?:probe|shell) (\S+)", text, re.MULTILINE)]
    assert "uname" in names
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert [name for name in names if not re.fullmatch(r"[a-z0-9-]+", name)] == []
