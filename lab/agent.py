# SPDX-License-Identifier: Apache-2.0
"""What QEMU's guest agent in a running guest is asked and told, through libvirt's own command line.

Source: QEMU Guest Agent Protocol Reference (qemu-ga-ref).
"""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from typing import Any

from lab import LabError
from lab.guest import MARK, virsh

ANSWER_TIME_S = 10


@dataclass(frozen=True, slots=True)
class Executed:
    """What came of a program that ran in the guest."""

    exit_code: int
    stdout: str
    stderr: str


def ask(uri: str, name: str, command: str, **arguments: object) -> Any:
    """The agent's answer. Raises LabError if there is none, or an error."""
    question = json.dumps({"execute": command, "arguments": arguments})
    answer = virsh(uri, "qemu-agent-command", name, "--timeout", str(ANSWER_TIME_S), question)
    return json.loads(answer)["return"]


def wait_for_agent(uri: str, name: str, timeout_s: float = 60) -> None:
    """Wait until the agent answers. Raises LabError."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            ask(uri, name, "guest-ping")
        except LabError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def execute(uri: str, name: str, program: str, *words: str, timeout_s: float = 120) -> Executed:
    """Run a program in the guest, to its end. Raises LabError."""
    pid = ask(uri, name, "guest-exec", path=program, arg=words, **{"capture-output": True})["pid"]
    deadline = time.monotonic() + timeout_s
    while not (status := ask(uri, name, "guest-exec-status", pid=pid))["exited"]:
        if time.monotonic() > deadline:
            raise LabError(f"{program} {' '.join(words)} runs for more than {timeout_s:.0f} s in guest {name}")
        time.sleep(0.05)
    out, err = (base64.b64decode(status.get(key, "")).decode(errors="replace") for key in ("out-data", "err-data"))
    return Executed(status.get("exitcode", -status.get("signal", 0)), out, err)


def do(uri: str, name: str, *jobs: str) -> list[str]:
    """Let a running guest do jobs (init.sh says which there are); gives its results. Raises LabError if one failed."""
    executed = execute(uri, name, "/init", *jobs)
    lines = [line.removeprefix(MARK) for line in executed.stdout.splitlines() if line.startswith(MARK)]
    if executed.exit_code != 0 or any(line.startswith("FAILED") for line in lines):
        raise LabError(f"guest {name} did not do {', '.join(jobs)}: {executed}")
    return lines
