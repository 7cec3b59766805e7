# SPDX-License-Identifier: Apache-2.0
"""Where the password comes from, and where it never shows."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import PASSWORD, Cli


def write_private(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


@pytest.fixture
def silent(cli: Cli, home: Path) -> Cli:
    """Nothing in the environment says the password; the file `right` does."""
    del cli.environ["DONJON_PASSWORD"]
    write_private(home / "right", f"{PASSWORD}\nand a second line\n")
    write_private(home / "wrong", "something else\n")
    return cli


def test_a_file_gives_its_first_line(silent: Cli, home: Path) -> None:
    assert silent("list", "--password-file", "right").exit_code == 0
    assert silent("list", DONJON_PASSWORD_FILE=str(home / "right")).exit_code == 0
    write_private(home / "windows", f"{PASSWORD}\r\n")
    assert silent("list", "--password-file", "windows").exit_code == 0


def test_a_command_gives_what_it_prints(silent: Cli) -> None:
    assert silent("list", "--password-command", "cat 'right'").exit_code == 0
    assert silent("list", DONJON_PASSWORD_COMMAND="cat right").exit_code == 0
    failed = silent("list", "--password-command", "cat nothing-there")
    assert failed.exit_code == 1
    assert "No such file" in failed.err


def test_a_systemd_credential_is_found(silent: Cli, home: Path) -> None:
    write_private(home / "donjon-password", PASSWORD)
    assert silent("list", CREDENTIALS_DIRECTORY=str(home)).exit_code == 0


def test_the_command_line_goes_before_the_environment(silent: Cli, home: Path) -> None:
    assert silent("list", "--password-file", "right", DONJON_PASSWORD_FILE="wrong").exit_code == 0
    assert silent("list", "--password-file", "wrong", DONJON_PASSWORD=PASSWORD).exit_code == 12
    assert silent("list", "--password-command", "cat right", DONJON_PASSWORD_FILE="wrong").exit_code == 0


def test_a_configured_repository_knows_its_own_password(silent: Cli, home: Path) -> None:
    config = f'[repository.main]\nlocation = "{home}/repo"\npassword_file = "{home}/right"\n'
    (home / "donjon.toml").write_text(config, encoding="utf-8")
    assert silent("list", "-r", "main", "--config", "donjon.toml", DONJON_PASSWORD_FILE="wrong").exit_code == 0
    assert silent("-r", "main", "--config", "donjon.toml", "key", "list").exit_code == 0


@pytest.mark.parametrize(("content", "reason"), [("", "first line is empty"), ("\nsecret", "first line is empty")])
def test_an_empty_password_file_is_refused(silent: Cli, home: Path, content: str, reason: str) -> None:
    write_private(home / "empty", content)
    outcome = silent("list", "--password-file", "empty")
    assert outcome.exit_code == 1
    assert reason in outcome.err


def test_a_file_that_all_can_read_is_warned_of(silent: Cli, home: Path) -> None:
    assert "warning" not in silent("list", "--password-file", "right").err
    (home / "right").chmod(0o644)
    outcome = silent("list", "--password-file", "right")
    assert outcome.exit_code == 0
    assert "every user of this host can read" in outcome.err


def test_without_a_terminal_nobody_is_asked(silent: Cli) -> None:
    outcome = silent("list")
    assert outcome.exit_code == 1
    assert "--password-file" in outcome.err


def test_no_option_takes_a_password(cli: Cli) -> None:
    assert cli("list", "--password", "secret").exit_code == 1


def test_keys_are_added_listed_and_removed(cli: Cli, home: Path) -> None:
    write_private(home / "second", "second password\n")
    added = cli("key", "add", "--new-password-file", "second", "--json").json["added"]
    assert {key["id"]: key["current"] for key in cli("key", "list", "--json").json["keys"]}[added] is False
    with_second = {"DONJON_PASSWORD": "second password"}
    assert cli("list", **with_second).exit_code == 0
    refused = cli("key", "remove", added[:10], **with_second)
    assert "the one in use" in refused.err
    assert cli("key", "remove", added[:10]).exit_code == 0
    assert cli("list", **with_second).exit_code == 12


def test_passwd_leaves_only_the_new_password(cli: Cli, home: Path) -> None:
    write_private(home / "new", "new password\n")
    assert cli("key", "passwd", "--new-password-file", "new").exit_code == 0
    assert cli("list").exit_code == 12
    assert cli("list", DONJON_PASSWORD="new password").exit_code == 0


def test_the_password_in_use_may_be_said_again(cli: Cli, home: Path) -> None:
    (before,) = cli("key", "list", "--json").json["keys"]
    write_private(home / "same", f"{PASSWORD}\n")
    for _ in range(4):  # the order of the keys is a matter of luck
        changed = cli("key", "passwd", "--new-password-file", "same", "--json")
        assert changed.exit_code == 0, changed.err
        (after,) = cli("key", "list", "--json").json["keys"]
        assert changed.json == {"added": after["id"], "removed": before["id"]}
        before = after


def test_a_password_command_has_the_environment_and_the_terminal_others_do_not(silent: Cli, home: Path) -> None:
    silent.capture.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CREDENTIALS_DIRECTORY", str(home))
        write_private(home / "donjon-password", PASSWORD)
        assert silent("list", "--password-command", "sh -c 'cat $CREDENTIALS_DIRECTORY/donjon-password'").exit_code == 0


def test_whoever_sits_at_a_terminal_is_asked_and_the_password_is_not_echoed(silent: Cli, home: Path) -> None:
    assert type_password(silent, "list", PASSWORD) == (0, True)
    assert type_password(silent, "list", "mistaken guess") == (12, True)


def type_password(cli: Cli, verb: str, password: str) -> tuple[int, bool]:
    """Exit code, and whether the password was kept off the screen."""
    master, terminal = pty.openpty()
    donjon = [sys.executable, "-c", "from donjon.cli.main import main; raise SystemExit(main())", verb]
    with subprocess.Popen(
        ["setsid", "--ctty", "--wait", *donjon],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, **cli.environ},
    ) as process:
        os.close(terminal)
        seen = b""
        while b"Password" not in seen:
            seen += os.read(master, 1000)
        os.write(master, password.encode() + b"\n")
        try:
            while more := os.read(master, 1000):
                seen += more
        except OSError:
            pass  # the last one has hung up
        os.close(master)
        return process.wait(), password.encode() not in seen


def test_no_password_is_in_any_process_argument_or_message(cli: Cli, home: Path) -> None:
    """Helpers are started while a password is known: their words are watched."""
    watcher = home / "bin"
    watcher.mkdir()
    for program in ("qemu-img", "qemu-nbd"):
        script = watcher / program
        script.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$0 $*" >> {home}/argv\nenv >> {home}/environ\nexec /usr/bin/{program} "$@"\n',
            encoding="utf-8",
        )
        script.chmod(0o755)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", home / "a.qcow2", "4M"], check=True)
    path = os.environ["PATH"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{watcher}:{path}")
        patch.setenv("DONJON_PASSWORD", PASSWORD)
        outcome = cli("backup", "web01", "--disk", "vda=a.qcow2", "-v")
    assert outcome.exit_code == 0, outcome.err
    assert "qemu-img info" in (home / "argv").read_text(encoding="utf-8")
    assert PASSWORD not in (home / "argv").read_text(encoding="utf-8")
    assert PASSWORD not in outcome.out + outcome.err
    assert PASSWORD not in (home / "environ").read_text(encoding="utf-8")
