# SPDX-License-Identifier: Apache-2.0
"""The watchdog is a process of its own, ready soon, and what is wrong with it keeps guests from being frozen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from donjon.errors import HostError
from donjon.quiesce.watchdog_process import COMMAND, WatchdogProcess

ABOUT_NUMPY = "import sys, donjon.cli.watchdog; print({'numpy', 'rich', 'cyclopts', 'cryptography'} & set(sys.modules))"


def test_it_is_armed_and_disarmed_and_ends_with_the_backup() -> None:
    pytest.importorskip("libvirt")
    with WatchdogProcess("test:///default") as watchdog:
        pid = watchdog.pid
        assert pid is not None
        assert os.getsid(pid) == pid
        with watchdog.armed((), 600) as alarm:
            assert not alarm.fired
        with watchdog.armed((), 0.01) as alarm:
            deadline = time.monotonic() + 20
            while not alarm.fired:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()


def test_it_imports_little() -> None:
    assert subprocess.check_output([sys.executable, "-c", ABOUT_NUMPY]) == b"set()\n"
    assert "-P" in COMMAND


@pytest.mark.parametrize(
    ("uri", "command", "reason"),
    [
        ("test:///nowhere.xml", COMMAND, "cannot connect to libvirt"),
        ("test:///default", ("donjon-nowhere",), "cannot run donjon-nowhere: it is not installed"),
        ("test:///default", ("sleep", "60"), "it does not answer"),
        ("test:///default", ("cat",), "it has ended"),
        ("test:///default", ("sh", "-c", "echo broken >&2"), "broken|it has ended"),
    ],
)
def test_without_a_working_watchdog_it_cannot_be_armed(uri: str, command: tuple[str, ...], reason: str) -> None:
    pytest.importorskip("libvirt")
    answer_s = 0.2 if command[0] == "sleep" else 20
    with WatchdogProcess(uri, command, answer_s) as watchdog:
        try:
            with pytest.raises(HostError, match=reason), watchdog.armed(("web",), 600):
                pytest.fail("it was armed")
        finally:
            if command[0] == "sleep" and watchdog.pid:
                os.kill(watchdog.pid, signal.SIGKILL)
