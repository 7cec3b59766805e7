# SPDX-License-Identifier: Apache-2.0
"""One accident on its stage: a guest, a tool, what the tool says of itself, and what the bytes say."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from live_guest import NAME, BenchGuest, raw_of
from live_tools import Moment, Outcome, Tool, run_tool
from sparse import same_content

from lab import LabError
from lab.guest import said
from lab.programs import run

SETTLED_S = 4.0
FREEZE = "hook freeze"
LOG_LINE = re.compile(r"^\[[^]]*\] (?:CRITICAL|ERROR|WARNING) .*?\]: (.*)$", re.MULTILINE)
LONGEST = 110


@dataclass
class Stage:
    """What has happened so far: `said` by the tool, step by step, and `truth`, each in words."""

    guest: BenchGuest
    tool: Tool
    said: list[str] = field(default_factory=list)
    truth: list[str] = field(default_factory=list)
    harmed: bool = False
    wrong: bool = False
    refused: bool = False
    contents: Mapping[str, Path] = field(default_factory=dict)

    def backup(
        self,
        step: str = "backup",
        *,
        when: Moment | None = None,
        signals: Mapping[signal.Signals, Moment] | None = None,
    ) -> bool:
        """Run the tool's backup; whether it says that it went well."""
        outcome = run_tool(self.tool.backup(), when=when, signals=signals)
        self.said.append(f"{step} {summary(outcome)}")
        if outcome.code != 0 and not signals and step == "full":
            raise LabError(f"the scenario could not begin: {summary(outcome)}")
        return outcome.code == 0

    def exact_backup(self) -> bool:
        """As the guest is suspended, so that there is one right result; what that is, is kept.

        A tool that is kept from it by its own backup job of before gets a second try, without the job.
        """
        with self.guest.suspended():
            shutil.rmtree(self.guest.folder / "truth", ignore_errors=True)
            self.contents = self.guest.contents(self.guest.folder / "truth")
            done = self.backup("next backup")
            if not done and self.guest.has_job():
                self.abort_job()
                done = self.backup("after `virsh domjobabort`: backup")
        if not done:
            self.refused = True
            self.truth.append("no backup")
        return done

    def abort_job(self) -> None:
        """As an administrator does."""
        self.guest.virsh("domjobabort", NAME)
        while self.guest.has_job():
            time.sleep(0.1)

    def judge(self) -> None:
        """Restore the newest backup, and compare it with what the disks held."""
        if self.refused:
            return
        folder = self.guest.folder / "restored"
        outcome = run_tool(self.tool.restore(folder))
        self.said.append(f"restore {summary(outcome)}")
        if outcome.code != 0:
            self.refused = True
            self.truth.append("no restore")
            return
        images = self.tool.restored(folder)
        differ = [target for target, truth in self.contents.items() if not same(images.get(target), truth)]
        self.wrong = bool(differ)
        self.truth.append(f"not what the disk held: {', '.join(differ)}" if differ else "every byte is right")

    def look_at_guest(self, when: str) -> None:
        """Whether it runs, and is not frozen; note what does it harm, and help it on."""
        time.sleep(SETTLED_S)
        if self.guest.state != "running":
            self.harmed = True
            self.truth.append(f"guest {self.guest.state} {when}")
            if self.guest.has_job():
                self.abort_job()
            self.guest.virsh("resume", NAME)
        try:
            frozen = self.guest.is_frozen()
        except LabError:
            frozen = False
        if frozen:
            self.harmed = True
            self.truth.append(f"guest still frozen {when}")
            self.guest.virsh("domfsthaw", NAME)

    def look_at_host(self, when: str) -> None:
        """What the tool has left there; asked after `look_at_guest`, which waits a little."""
        if left := self.tool.leftovers(self.guest):
            self.truth.append(f"{when}: {', '.join(left)} left")

    def has_hooked(self) -> Moment:
        """The moment at which the guest's agent is about to freeze it, once more than until now."""
        before = said(self.guest.console).count(FREEZE)
        return lambda: said(self.guest.console).count(FREEZE) > before

    @contextmanager
    def small_scratch(self, mib: int) -> Iterator[None]:
        """Scratch files have this much room."""
        inside = self.guest.inside
        run(*inside, "mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=755", "tmpfs", self.tool.scratch)
        try:
            yield
        finally:
            run(*inside, "umount", "-l", self.tool.scratch)

    @property
    def verdict(self) -> str:
        """In a word or two."""
        left = any(" left" in words for words in self.truth)
        if self.harmed:
            return "**guest harmed**"
        if self.wrong:
            return "**wrong data, silently**"
        word = "refused" if self.refused else "right"
        return f"{word}; leaves things behind" if left else word


def same(image: Path | None, truth: Path) -> bool:
    """Whether a restored image, if there is one, reads as this raw one."""
    return image is not None and same_content(raw_of(image), truth)


def summary(outcome: Outcome) -> str:
    """Exit code, and if it is not 0 the reason, as the tool says it."""
    if outcome.code < 0 or outcome.code > 128:
        number = -outcome.code if outcome.code < 0 else outcome.code - 128
        return f"ended by {signal.Signals(number).name}"
    if outcome.code == 0:
        return "0"
    return f"{outcome.code}: {_reason(outcome.said)}"


def _reason(words: str) -> str:
    lines = [line for line in words.strip().splitlines() if line.strip()]
    found = LOG_LINE.findall(words) or lines[-1:]
    reason = found[-1] if found else "nothing"
    for line in lines:
        if line.startswith("{"):
            reason = error_of(json.loads(line)) or reason
    reason = re.sub(r"/[\w./-]*/([\w.-]+)", r"\1", reason).replace("|", "/").replace("\n", " ")
    return f"'{reason[:LONGEST]}{'...' if len(reason) > LONGEST else ''}'"


def error_of(report: dict[str, object]) -> str | None:
    """What donjon says went wrong."""
    failed = report.get("failed")
    if isinstance(failed, list) and failed:
        return str(failed[0].get("error", failed[0]))
    return str(report["error"]) if "error" in report else None
