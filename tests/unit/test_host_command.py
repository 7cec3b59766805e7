# SPDX-License-Identifier: Apache-2.0
"""Other programs are run to their end or kept beside us, and never outlive donjon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from donjon.errors import HostError
from donjon.host_command import run, running


def test_a_program_gets_its_input_and_gives_its_output() -> None:
    assert run(["cat"], timeout_s=10, input=b"\x00bytes").stdout == b"\x00bytes"


def test_words_reach_a_program_as_they_are() -> None:
    assert run(["printf", "%s", "a b; $HOME 'x'"], timeout_s=10).stdout == b"a b; $HOME 'x'"


def test_programs_speak_english_and_get_what_they_are_told() -> None:
    done = run(["env"], timeout_s=10, env={"DONJON_TEST": "yes"})
    assert {b"LC_ALL=C", b"DONJON_TEST=yes"} <= set(done.stdout.splitlines())


def test_programs_are_not_told_our_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ("DONJON_PASSWORD", "DONJON_PASSWORD_FILE", "DONJON_PASSWORD_COMMAND", "CREDENTIALS_DIRECTORY")
    for name in ours:
        monkeypatch.setenv(name, "secret")
    assert b"secret" not in run(["env"], timeout_s=10).stdout
    assert run(["env"], timeout_s=10, operators=True).stdout.count(b"secret") == len(ours)
    with running(["sleep", "60"]) as helper:
        _until(lambda: Path(f"/proc/{helper.pid}/comm").read_text() == "sleep\n")
        assert b"secret" not in Path(f"/proc/{helper.pid}/environ").read_bytes()


@pytest.mark.parametrize("operators", [False, True])
def test_only_a_program_of_the_operators_own_stays_at_the_terminal(operators: bool) -> None:
    session = int(run(["ps", "-o", "sid=", "--ppid", str(os.getpid())], timeout_s=10, operators=operators).stdout)
    assert (session == os.getsid(0)) is operators


def test_ctrl_c_lets_a_program_come_to_its_end(tmp_path: Path) -> None:
    """As a terminal sends it: to every process of the group."""
    script = (
        "import sys\nfrom donjon.host_command import run\n"
        "try:\n"
        f"    run(['sh', '-c', 'echo begun > {tmp_path}/begun; sleep 1; echo whole > {tmp_path}/made'], timeout_s=60)\n"
        "except KeyboardInterrupt:\n"
        f"    print(open('{tmp_path}/made').read(), end='')\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True) as donjon:
        _until((tmp_path / "begun").exists)
        os.killpg(donjon.pid, signal.SIGINT)
        assert donjon.communicate()[0] == b"whole\n"


def test_a_program_dies_when_donjon_is_killed(tmp_path: Path) -> None:
    script = (
        f"from donjon.host_command import run; run(['sh', '-c', 'echo $$. > {tmp_path}/pid; sleep 60'], timeout_s=60)"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as donjon:
        _until(lambda: (tmp_path / "pid").exists() and "." in (tmp_path / "pid").read_text())
        pid = int((tmp_path / "pid").read_text().strip().rstrip("."))
        donjon.send_signal(signal.SIGKILL)
    _until(lambda: not _runs(pid))


def test_a_failure_is_told_in_the_programs_words() -> None:
    with pytest.raises(HostError, match=r"cannot run ls: .*/nowhere.*No such file"):
        run(["ls", "/nowhere"], timeout_s=10)
    assert run(["false"], timeout_s=10, check=False).returncode == 1


def test_a_silent_failure_is_told_too() -> None:
    with pytest.raises(HostError, match="cannot run false: it ended with exit status 1"):
        run(["false"], timeout_s=10)


def test_a_program_that_hangs_is_given_up() -> None:
    with pytest.raises(HostError, match=r"cannot run sleep: it did not end within 0\.1 s"):
        run(["sleep", "60"], timeout_s=0.1)


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HostError, match="cannot run qemu-img: it is not installed") as caught:
        run(["qemu-img", "info"], timeout_s=10)
    assert "qemu-utils" in (caught.value.hint or "")


def test_a_helper_is_gone_when_the_block_is_left() -> None:
    with running(["sleep", "60"]) as helper:
        helper.check_running()
        pid = helper.pid
    assert not _lives(pid)


def test_a_helper_is_gone_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), running(["sleep", "60"]) as helper:
        raise ZeroDivisionError
    assert not _lives(helper.pid)


def test_a_helper_that_fails_is_told_in_its_own_words() -> None:
    with running(["ls", "/nowhere"]) as helper, pytest.raises(HostError, match=r"ls: .*No such file"):
        helper.finish(timeout_s=10)
    with running(["ls", "/nowhere"]) as helper:
        _until(lambda: not _runs(helper.pid))
        with pytest.raises(HostError, match=r"ls: .*No such file"):
            helper.check_running()


def test_a_helper_dies_when_donjon_is_killed(tmp_path: Path) -> None:
    script = (
        "import threading, time, sys, pathlib\n"
        "from donjon.host_command import running\n"
        "def start():\n"
        "    with running(['sleep', '60']) as helper:\n"
        "        pathlib.Path(sys.argv[1]).write_text(str(helper.pid) + '.')\n"
        "        time.sleep(60)\n"
        "thread = threading.Thread(target=start)\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    note = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", script, note]) as donjon:
        _until(lambda: note.exists() and note.read_text().endswith("."))
        pid = int(note.read_text().rstrip("."))
        _until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
        donjon.send_signal(signal.SIGKILL)
    _until(lambda: not _runs(pid))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _runs(pid: int) -> bool:
    """Whether it is there and no zombie, which only waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _until(met: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not met():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)
