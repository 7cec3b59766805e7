# SPDX-License-Identifier: Apache-2.0
"""Rules of the area RES: what guests share without wanting to."""

from __future__ import annotations

from collections.abc import Iterable

from donjon.audit.control import Context, control
from donjon.audit.fact import Absent, need
from donjon.audit.facts.host import Host
from donjon.audit.facts.processes import Process
from donjon.audit.verdict import Severity, Verdict, failed, not_applicable, passed

PAGE_KIB = 4
_MIB = 1024


@control("RES-01")
def no_merged_pages_across_tenants(host: Host, context: Context) -> Iterable[Verdict]:
    """Merged pages tell one guest what is in the memory of another, and let it flip their bits."""
    if isinstance(host.memory.ksm, Absent):
        yield not_applicable("the kernel cannot merge pages")
        return
    ksm = need(host.memory.ksm)
    if ksm.run != 1 and (ksm.run == 2 or not ksm.sharing):
        yield passed("pages of guests are not merged", run=ksm.run)
        return
    saved = ksm.sharing * PAGE_KIB // _MIB
    guests = [one for one in need(host.domains.all) if one.running]
    processes = {one.pid: one for one in need(host.processes.all)}
    merged = [one.name for one in guests if not _keeps_its_pages(processes.get(one.pid))]
    if guests and not merged:
        yield passed("pages are merged, but of no guest", run=ksm.run, saved_mib=saved)
        return
    whose = f"of {', '.join(merged)} " if merged else ""
    state = "are merged" if ksm.run == 1 else "stay merged although KSM is off"
    tenants = "several tenants are" if context.profile.multi_tenant else "one tenant is"
    severity = None if context.profile.multi_tenant else Severity.INFO
    yield failed(
        f"pages {whose}{state}, {saved} MiB of them; {tenants} on this host",
        severity=severity,
        guests=merged,
        run=ksm.run,
        pages_sharing=ksm.sharing,
        across_nodes=ksm.across_nodes,
    )


def _keeps_its_pages(process: Process | None) -> bool:
    """<nosharepages/> makes libvirt start QEMU with mem-merge=off."""
    return process is not None and any("mem-merge=off" in word.split(",") for word in process.arguments)


@control("RES-02")
def memory_is_not_overcommitted(host: Host, context: Context) -> Iterable[Verdict]:
    """When memory runs out, the kernel kills a guest, or all of them crawl."""
    kinds = need(host.platform.kinds)
    total = need(host.memory.total if kinds == "K" else host.memory.xen_total)
    guests = [one for one in need(host.domains.all) if one.running]
    if not guests:
        yield not_applicable("no VM runs")
        return
    promised = sum(one.memory_kib for one in guests)
    limit = context.profile.limits.memory_ratio
    sizes = f"{promised // _MIB} of {total // _MIB} MiB"
    if promised > limit * total:
        times = f"{promised / total:.2f}"
        yield failed(f"running VMs were promised {sizes}: {times} times what is there", ratio=times, limit=limit)
        return
    swapped = need(host.memory.guests_in_swap)
    if swapped:
        mib = max(1, swapped // _MIB)
        yield failed(f"{mib} MiB of running VMs are in the host's swap", swapped_kib=swapped, promised=sizes)
        return
    yield passed(f"running VMs were promised {sizes}", promised=sizes, limit=limit)
