# SPDX-License-Identifier: Apache-2.0
"""Which hosts are collected from, and how ssh is called."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import pytest

from donjon.audit.collect.collecting import collect, collect_many
from donjon.audit.collect.target import Target, parse_target
from donjon.errors import ConfigError, HostError


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("local", Target()),
        ("ssh://web1", Target("web1")),
        ("ssh://Web1", Target("Web1")),
        ("ssh://root@web1:2222", Target("web1", "root", 2222)),
        ("ssh://root@[fe80::1]:22", Target("fe80::1", "root", 22)),
        ("ssh://ops@10.0.0.1/", Target("10.0.0.1", "ops")),
    ],
)
def test_a_host_is_written_as_local_or_a_url(text: str, target: Target) -> None:
    assert parse_target(text) == target
    assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    "text",
    [
        "",
        "web1",
        "ssh://",
        "ssh://-oProxyCommand=x",
        "ssh://-l@h",
        "ssh://h:99999",
        "ssh://h/path",
        "http://h",
        "ssh://a b",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no such kind of host"):
        parse_target(text)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_target("ssh://root:hunter2@h")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("legacy", [False, True])
def test_ssh_accepts_no_host_key_by_itself_and_old_algorithms_only_if_told(legacy: bool, tmp_path: Path) -> None:
    """As ssh itself understands its command line; whatever the user's ssh_config says."""
    if not shutil.which("ssh"):
        pytest.skip("no ssh here")
    (tmp_path / "config").write_text(
        "Host *\n StrictHostKeyChecking no\n ForwardAgent yes\n RemoteCommand sh\n User me\n"
    )
    words = parse_target("ssh://h:2222", legacy=legacy, sudo=True).shell()
    asked = subprocess.run(
        [words[0], "-G", "-F", tmp_path / "config", *words[1:]], capture_output=True, text=True, check=True
    )
    settings = dict(line.split(" ", 1) for line in asked.stdout.splitlines() if " " in line)
    assert settings["stricthostkeychecking"] == "true"
    assert settings["batchmode"] == "yes"
    assert settings["forwardagent"] == "no"
    assert (settings["hostname"], settings["port"], settings["user"]) == ("h", "2222", "me")
    assert ("ssh-rsa" in settings["hostkeyalgorithms"].split(",")) is legacy
    assert ("diffie-hellman-group14-sha1" in settings["kexalgorithms"].split(",")) is legacy
    assert words[-1] == "sudo -n sh -s"


def test_a_host_without_sudo_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sudo").write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    (tmp_path / "sudo").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(HostError, match="cannot collect from local: sudo: a password is required") as caught:
        collect(parse_target("local", sudo=True), io.BytesIO())
    assert caught.value.hint is not None
    assert "as root" in caught.value.hint


def test_what_a_host_says_cannot_move_the_cursor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ssh").write_text("#!/bin/sh\nprintf 'bad\\033[2J\\n' >&2\nexit 255\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(HostError, match=r"cannot collect from ssh://h: bad\?\[2J$"):
        collect(parse_target("ssh://h"), io.BytesIO())


def test_a_bundle_that_is_no_good_is_the_hosts_failure_and_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ssh").write_text("#!/bin/sh\nprintf 'manifest.json\\0and no more'\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    into = tmp_path / "bundles"
    into.mkdir()
    told: list[str] = []
    found = collect_many([parse_target("ssh://h")], into, on_progress=lambda target, error: told.append(str(error)))
    assert "cut short" in str(found[Target("h")])
    assert told == [str(found[Target("h")])]
    assert list(into.iterdir()) == []
