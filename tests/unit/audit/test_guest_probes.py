# SPDX-License-Identifier: Apache-2.0
"""What the probes about VMs do on the host itself: passwords do not leave it."""

from __future__ import annotations

import shutil
import subprocess
from importlib.resources import files

import pytest

FRAGMENT = files("donjon.audit.collect") / "probes" / "gst.sh"
SHELLS = [shell for shell in (("dash",), ("bash",), ("busybox", "sh")) if shutil.which(shell[0])]

SECRETS = r"""
vncpasswd = 'hunter2'
vncpasswd="hun,ter2"
vncpasswd = "hun\"ter2"
vfb = [ 'type=vnc,vncpasswd=hunter2,vnclisten=0.0.0.0' ]
spicepasswd="hunter2"
        "passwd": "hunter2",
      (vncpasswd=hunter2)
<qemu:arg value='spice,password=hunter2,port=1'/>
<qemu:arg value='secret,id=s0,data=hunter2'/>
"""


def blanked(shell: tuple[str, ...], text: str) -> str:
    """What a probe makes of lines of a definition."""
    stubs = "probe() { :; }; shell() { :; }; look() { :; }; copy() { :; }\n"
    use = "\nawk \"$donjon_blank\"'{ print blank($0) }'"
    program = stubs + FRAGMENT.read_text(encoding="utf-8") + use
    return subprocess.run([*shell, "-c", program], input=text, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_no_password_is_left_and_that_there_is_one_is(shell: tuple[str, ...]) -> None:
    left = blanked(shell, SECRETS)
    assert left.count("(set)") == len(SECRETS.split("\n")) - 2
    assert not any(piece in left for piece in ("hunter", "hun,", "ter2", 'hun\\"'))
    assert "vncpasswd=(set),vnclisten=0.0.0.0" in left
    assert "<qemu:arg value='spice,password=(set),port=1'/>" in left


def test_an_empty_password_is_seen_to_be_empty_and_all_else_stays() -> None:
    text = "vncpasswd = ''\nname = 'pass'\n<currentMemory unit='KiB'>1</currentMemory>\n\"passwd\": \"\",\n"
    assert blanked(SHELLS[0], text) == text
