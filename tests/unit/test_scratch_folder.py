# SPDX-License-Identifier: Apache-2.0
"""Temporary folders do not outlive their users, however these end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from donjon.scratch_folder import scratch_folder, sweep_scratch_folders
if sys.argv[1] == "sweep":
    print(sweep_scratch_folders())
else:
    with scratch_folder() as folder:
        (folder / "socket").touch()
        print(folder, flush=True)
        sys.stdin.read()
"""


def start(place: Path, verb: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, verb],
        env={**os.environ, "TMPDIR": str(place)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def sweep(place: Path) -> int:
    return int(start(place, "sweep").communicate()[0])


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "ended"])
def test_a_folder_goes_with_its_user_and_not_before(tmp_path: Path, killed: bool) -> None:
    user = start(tmp_path, "use")
    assert user.stdout
    folder = Path(user.stdout.readline().strip())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sweep(tmp_path) == 0
    assert folder.exists(), "it was in use"
    if killed:
        user.send_signal(signal.SIGKILL)
        user.wait()
        assert sweep(tmp_path) == 1
    else:
        user.communicate("")
    assert not folder.exists()


def test_a_link_that_somebody_placed_there_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").touch()
    (tmp_path / "donjon-x.scratch").symlink_to(precious)
    assert sweep(tmp_path) == 0
    assert (precious / "data").exists()


@pytest.mark.parametrize("moment", ["scratch.made", "scratch.opened"])
def test_a_folder_that_is_swept_away_before_it_is_locked_is_made_anew(tmp_path: Path, moment: str) -> None:
    script = (
        "import sys\n"
        "from donjon.scratch_folder import scratch_folder, sweep_scratch_folders\n"
        "from donjon.trace import listening\n"
        "swept = []\n"
        "def sweep_once(point):\n"
        "    if point == sys.argv[1] and not swept:\n"
        "        swept.append(sweep_scratch_folders())\n"
        "with listening(sweep_once), scratch_folder() as folder:\n"
        "    (folder / 'socket').touch()\n"
        "    print(swept, sweep_scratch_folders(), (folder / 'socket').exists())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, moment],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[1] 0 True\n", "")
    assert list(tmp_path.iterdir()) == []
