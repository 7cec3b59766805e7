# SPDX-License-Identifier: Apache-2.0
"""A host whose file system is a scratch folder, with a finding or two; scripts run against it for real."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

from donjon.audit.collect.target import Target
from donjon.audit.facts.host import Host
from donjon.audit.judge import Judgement, Result
from donjon.audit.profile import Profile
from donjon.audit.verdict import Severity, Status
from donjon.harden.change import Change, Fix
from donjon.harden.plan import Plan
from donjon.harden.planning import make_plan
from donjon.harden.runner import HostRunner
from tests.unit.audit.control_cases import Machine, host_of

MACHINE = "0123456789abcdef0123456789abcdef"
NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
JOURNALS = "var/lib/donjon"


def finding(control: str, subject: str = "", name: str = "") -> Result:
    host = hashlib.sha256(MACHINE.encode()).hexdigest()[:16]
    return Result(control, host, subject, name or subject, Status.FAIL, Severity.HIGH, "is bad", {}, "", "")


@dataclass(frozen=True)
class ScratchHost:
    """Its files below `root`."""

    root: Path
    runner: HostRunner = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "runner", HostRunner(Target(), root=str(self.root)))
        self.root.mkdir(mode=0o755)
        self.write("/etc/machine-id", MACHINE + "\n")
        self.write("/etc/rc.local", "#!/bin/sh\nexit 0\n", 0o755)

    @property
    def facts(self) -> Host:
        return host_of(Machine(commands={"machine-id": MACHINE + "\n"}))

    @property
    def undecided(self) -> bool:
        """Whether a plan waits for a decision, or whoever decided still works on it."""
        return self.at("/var/lib/donjon/harden/pending").exists()

    def power_cut(self) -> None:
        """All processes of donjon on this host are gone, at once."""
        for file in self.at("/var/lib/donjon/harden").glob("*/deadman"):
            process = int(file.read_text())
            with suppress(ProcessLookupError, FileNotFoundError):
                if os.fsencode(file.parent) in Path(f"/proc/{process}/cmdline").read_bytes():
                    os.kill(process, signal.SIGKILL)

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def write(self, path: str, text: str | bytes, mode: int = 0o644) -> Path:
        place = self.at(path)
        for folder in reversed([one for one in place.parents if self.root in one.parents]):
            folder.mkdir(mode=0o755, exist_ok=True)
            folder.chmod(0o755)
        place.write_bytes(text.encode() if isinstance(text, str) else text)
        place.chmod(mode)
        return place

    def snapshot(self) -> dict[str, tuple[int, int, int, bytes]]:
        """Mode, owner and content of everything but donjon's journals."""
        seen = {}
        for place in sorted(self.root.rglob("*")):
            name = str(place.relative_to(self.root))
            if not (name + "/").startswith(JOURNALS) and name not in ("var", "var/lib"):
                info = place.lstat()
                content = place.read_bytes() if stat.S_ISREG(info.st_mode) else os.fsencode(os.path.realpath(place))
                seen[name] = (info.st_mode, info.st_uid, info.st_gid, content)
        return seen

    def plan(self, *changes: Change, findings: Sequence[Result] = (), known: dict[str, Fix] | None = None) -> Plan:
        """The plan for these changes, each the answer to a finding; or for findings, by donjon's own fixes."""
        controls = [f"CFG-{number:02}" for number in range(1, len(changes) + 1)]
        answers = dict(zip(controls, changes, strict=True))
        if answers:
            known = {control: lambda result, *_: answers[result.control] for control in controls}
        results = tuple(findings) or tuple(finding(control) for control in controls)
        judgement = Judgement("case", date(2026, 11, 23), {}, results)
        return make_plan(judgement, self.facts, Profile("case"), self.runner, known=known, clock=lambda: NOON)
