# SPDX-License-Identifier: Apache-2.0
"""Backup of one VM or many."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from cyclopts import Parameter

from donjon.backup.backup import BackupReport, GroupIncompleteError, back_up, back_up_together
from donjon.backup.method import Method
from donjon.backup.methods.offline import Offline
from donjon.backup.ways import Restrained, Ways
from donjon.cli.commands.backup_options import Choice, Content, Manner, Wishes, wishes
from donjon.cli.commands.backup_result import BackedUp, FailedVm, describe_backup, warnings_of
from donjon.cli.disks_alone import vm_from_files
from donjon.cli.options import COMMON, Common, Given
from donjon.cli.parallel import Stop, run_each
from donjon.cli.progress import Bars
from donjon.cli.result import describe_failure
from donjon.cli.session import Session
from donjon.config import PolicySettings
from donjon.errors import ConfigError, DonjonError, HostError
from donjon.hypervisors.hypervisor import Hypervisor
from donjon.hypervisors.live_hypervisor import LiveHypervisor
from donjon.hypervisors.selection import matches
from donjon.model.progress import Progress
from donjon.model.vm import Vm
from donjon.repository.repository import Repository
from donjon.restore.drill import DRILL_DEBT
from donjon.state.ledger import Ledger

_CHOICE, _MANNER, _CONTENT = Choice(), Manner(), Content()


def backup(
    *vms: Annotated[str, Parameter(metavar="VM", help="Names or UUIDs.")],
    choice: Choice = _CHOICE,
    manner: Manner = _MANNER,
    content: Content = _CONTENT,
    common: Common = COMMON,
    program: Given,
) -> BackedUp:
    """Make restore points of VMs.

    A guest that runs is backed up live: it is frozen for a moment and goes on. One that is off is backed up as it is.
    --shutdown and --suspend hold a running guest still meanwhile instead. Only what has changed since the last restore
    point is read, where that can be known, and only what the repository does not have is stored; still every restore
    point is whole. Without libvirt nobody can say whether the images are those of a guest that was off: such a restore
    point counts as one after a power cut (crash).

    Of several VMs, some are backed up at a time (--parallel), and one that fails does not keep the others from being
    backed up; the exit code is then 3. With --together all are taken at one moment, or none.

    Examples:
        donjon backup web01 mail

        donjon backup --all --parallel 4

        donjon backup app01 db01 --together --least filesystem

        donjon backup --policy nightly

        donjon backup web01 --disk vda=/images/web01.qcow2 --definition web01.xml     (without libvirt)
    """
    session = Session(common, program)
    policy = session.configuration.find_policy(choice.policy) if choice.policy else PolicySettings()
    _check_choice(vms, choice, manner.method)
    wished = wishes(choice, manner, content, policy, session.settings(policy.repository))
    with ExitStack() as held:
        ledger = held.enter_context(session.ledger())
        repository = session.open_repository(policy.repository)
        by_hand = bool(choice.disk or choice.definition)
        hypervisor = None if by_hand else held.enter_context(session.connect(choice.connect or policy.connect))
        run = _Run(session, repository, wished, held.enter_context(session.bars()))
        if hypervisor is None:
            vm = vm_from_files(vms[0] if vms else None, choice.disk, choice.definition)
            return describe_backup([run.store(vm, _by_hand(ledger, repository, wished), Stop())], [])
        ways = _ways(hypervisor, ledger, repository, wished, session)
        candidates = _candidates(hypervisor, vms, choice, policy, _drilled(ledger))
        return run.together(ways, candidates) if wished.together else run.each(ways, candidates)


class _Candidate(NamedTuple):
    """A VM that is meant: what to call it, and its UUID or what the operator calls it."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class _Run:
    """What all VMs of one run have in common."""

    session: Session
    repository: Repository
    wished: Wishes
    bars: Bars

    def store(self, vm: Vm, method: Method, stop: Stop) -> BackupReport:
        """Back one VM up. Raises as `back_up`."""
        self.session.tell(f"backing up {vm.name} {'live ' if method.name == 'live' else ''}...")
        with self.bars(vm.name) as progress:
            heeding: Progress = stop.heeded_by(progress)
            report = back_up(vm, method, self.repository, self.wished.write, heeding, self.wished.sampling)
        self._warn(report)
        return report

    def each(self, ways: Ways, candidates: Sequence[_Candidate]) -> BackedUp:
        """Several at a time, each as it is when its turn comes; a single one raises its error."""

        def attempt(candidate: _Candidate, stop: Stop) -> BackupReport | FailedVm:
            try:
                return ways.back_up(candidate.key, lambda vm, method: self.store(vm, method, stop))
            except DonjonError as error:
                if len(candidates) == 1:
                    raise
                failure = describe_failure(error)
                self.session.warn("; ".join((f"{candidate.name}: {failure.error}", *failure.notes)))
                return FailedVm(candidate.name, failure)

        outcomes = run_each(candidates, attempt, self.wished.parallel)
        return describe_backup(
            [outcome for outcome in outcomes if isinstance(outcome, BackupReport)],
            [outcome for outcome in outcomes if isinstance(outcome, FailedVm)],
        )

    def together(self, ways: Ways, candidates: Sequence[_Candidate]) -> BackedUp:
        """All at one moment, or none. Raises as `back_up_together`."""
        vms, method = ways.find_group([candidate.key for candidate in candidates])
        self.session.tell(f"backing up {', '.join(vm.name for vm in vms)} together ...")
        failed: list[FailedVm] = []
        with self.bars("") as progress:
            try:
                reports: Sequence[BackupReport] = back_up_together(
                    vms, method, self.repository, self.wished.write, progress, self.wished.sampling
                )
            except GroupIncompleteError as error:
                if not error.failures:
                    raise
                reports = error.reports
                failed = [FailedVm(name, describe_failure(failure)) for name, failure in error.failures.items()]
        for report in reports:
            self._warn(report)
        return describe_backup(reports, failed)

    def _warn(self, report: BackupReport) -> None:
        for sentence in warnings_of(report, self.wished.warn_below):
            self.session.warn(sentence)


def _ways(hypervisor: LiveHypervisor, ledger: Ledger, repository: Repository, wished: Wishes, session: Session) -> Ways:
    live = offline = None
    if wished.live:
        live = session.program.live_method(hypervisor, ledger, repository.config.id, wished.live)
    if wished.offline:
        offline = Offline(hypervisor, ledger, repository.config.id, wished.offline)
    return Ways(hypervisor, live, offline, wished.least)


def _by_hand(ledger: Ledger, repository: Repository, wished: Wishes) -> Method:
    """For a VM that no hypervisor was asked about."""
    assert wished.offline is not None
    return Restrained(Offline(None, ledger, repository.config.id, wished.offline), least=wished.least)


def _candidates(
    hypervisor: Hypervisor, vms: tuple[str, ...], choice: Choice, policy: PolicySettings, drilled: Collection[str]
) -> list[_Candidate]:
    """The VMs that are meant, each once; those `drilled` only if they are named."""
    labels = (*choice.label, *policy.labels)
    everything = choice.all or policy.all
    found: list[Vm] = []
    if everything or labels:
        every = [vm for vm in hypervisor.list_vms() if vm.name not in drilled]
        found = every if everything else [vm for vm in every if any(matches(vm, label) for label in labels)]
    candidates = {vm.uuid: _Candidate(vm.name, vm.uuid) for vm in found}
    for name in (*vms, *policy.vms):
        candidate = _Candidate(name, _uuid(hypervisor, name))
        candidates.setdefault(candidate.key, candidate)
    if not candidates:
        raise ConfigError("cannot back up: no VM has such a label" if labels else "cannot back up: there is no VM")
    return list(candidates.values())


def _drilled(ledger: Ledger) -> set[str]:
    """Names of the guests that are there for a restore drill, and soon gone."""
    return {str(debt.args["name"]) for debt in ledger.debts() if debt.kind == DRILL_DEBT}


def _uuid(hypervisor: Hypervisor, name: str) -> str:
    """The UUID of the VM called so; the name itself where that cannot be told: its turn will show why."""
    try:
        return hypervisor.find_vm(name).uuid
    except HostError:
        return name


def _check_choice(vms: tuple[str, ...], choice: Choice, method: str | None) -> None:
    by_hand = bool(choice.disk or choice.definition)
    by_libvirt = bool(choice.all or choice.label or choice.policy or choice.connect or choice.together)
    if by_hand and (by_libvirt or len(vms) > 1 or method == "live"):
        raise ConfigError("cannot back up: --disk and --definition are for one VM, of which libvirt is not asked")
    if not (vms or by_hand or choice.all or choice.label or choice.policy):
        raise ConfigError("cannot back up: no VM was said", hint="say names, --all, --label or --policy")
