# SPDX-License-Identifier: Apache-2.0
"""Gold images: sealed when they are finished, verified before they are used, and compared with what became of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from donjon.audit.bundle import Bundle, Manifest
from donjon.audit.catalogue import catalogue
from donjon.audit.fact import Known
from donjon.audit.facts.domains import Domains
from donjon.audit.facts.drift import Difference, Drift
from donjon.audit.facts.guests import Gold
from donjon.audit.facts.host import read_host
from donjon.audit.guest.inspect import inspect_image
from donjon.audit.judge import Result as Judged
from donjon.audit.judge import judge
from donjon.audit.profile import Profile
from donjon.audit.verdict import Status
from donjon.cli.commands.audit_beside import Beside
from donjon.cli.commands.audit_result import FINDINGS, UNSEEN
from donjon.cli.options import COMMON, Common, Given
from donjon.cli.page import Page
from donjon.cli.result import Result
from donjon.cli.session import Session
from donjon.errors import ConfigError
from donjon.gold.register import Register
from donjon.gold.seal import diff as compare
from donjon.gold.seal import seal as seal_image
from donjon.gold.seal import verify as verify_image

_Image = Annotated[Path, Parameter(metavar="IMAGE", help="Disk image, in use by nobody.")]
_RegisterFolder = Annotated[Path, Parameter(name="--register", metavar="DIR", help="Register of gold images.")]
_Format = Annotated[str | None, Parameter(name="--format", metavar="FORMAT", help="Of the image (else QEMU guesses).")]
_Signers = Annotated[Path, Parameter(metavar="FILE", help="Who may sign: ssh's file of allowed signers.")]
REGISTER = Path("/var/lib/donjon/gold")


@dataclass(frozen=True, slots=True)
class SealShown(Result):
    """A gold image and what is wrong with it; `sha256` of the bytes of its disk, null if it cannot be read."""

    image: str
    sha256: str | None
    findings: tuple[Judged, ...]

    @property
    def exit_code(self) -> int:
        """20 if something is wrong, else 21 if something could not be seen."""
        if any(one.status is Status.FAIL for one in self.findings):
            return FINDINGS
        return UNSEEN if self.findings else 0

    def show(self, page: Page) -> None:
        """What is wrong, worst first, and what could not be seen."""
        page.line(f"{self.image}: sha256 {self.sha256 or 'unknown'}")
        for one in sorted(self.findings, key=lambda found: (found.status is not Status.FAIL, found.severity.rank)):
            word = one.severity.value if one.status is Status.FAIL else one.status.value
            page.line(f"  {word:<8} {one.control}  {one.summary}")
        if not self.findings:
            page.line("  nothing is wrong with it")


@dataclass(frozen=True, slots=True)
class DriftShown(Result):
    """How far a clone has gone from its gold image."""

    gold: str
    clone: str
    drift: Drift

    @property
    def exit_code(self) -> int:
        """20 if a path differs that must not, else 21 if a part could not be compared."""
        if self.drift.forbidden:
            return FINDINGS
        return UNSEEN if self.drift.unknown else 0

    def show(self, page: Page) -> None:
        """A line for each difference."""
        drift = self.drift
        page.line(f"{self.clone}: drift {drift.score} from {self.gold}", bold=True)
        for name in ("packages", "configs", "users", "units"):
            _show_difference(name, getattr(drift, name), page)
        for path in drift.forbidden:
            page.line(f"  must not differ: {path}", bold=True)
        for part, why in drift.unknown.items():
            page.line(f"  {part} could not be compared: {why}")


def _show_difference(name: str, difference: Difference, page: Page) -> None:
    for word, found in (("came", difference.added), ("went", difference.removed), ("changed", difference.changed)):
        if found:
            page.line(f"  {name} {word}: {', '.join(found)}")


def seal(
    image: _Image,
    /,
    *,
    key: Annotated[Path, Parameter(metavar="FILE", help="Private key of ssh to sign with.")],
    builder: Annotated[str, Parameter(metavar="WHO", help="Who vouches for it.")],
    signers: _Signers,
    register: _RegisterFolder = REGISTER,
    image_format: _Format = None,
    common: Common = COMMON,
    program: Given,
) -> SealShown:
    """Seal a finished gold image: its hash and what is inside are written down and signed.

    What must not be inside is told (secrets, host keys, a machine-id, usable passwords, logs); the image is sealed all
    the same, and `donjon audit run --gold` goes on telling. Ends with 20 if something is wrong, with 21 if something
    could not be seen.

    Examples:
        donjon gold seal debian12.qcow2 --key ~/.ssh/id_ed25519 --builder ann --signers /etc/donjon/signers
    """
    place = Register(register)
    made = seal_image(image, place, key, builder=builder, now=datetime.now(UTC), image_format=image_format)
    return SealShown(made.path, made.sha256, _wrong(verify_image(image, place, signers), common, program))


def verify(
    image: _Image,
    /,
    *,
    signers: _Signers,
    register: _RegisterFolder = REGISTER,
    common: Common = COMMON,
    program: Given,
) -> SealShown:
    """Verify that a gold image is what was sealed, and tell what is wrong with it.

    Ends with 20 if something is wrong, with 21 if something could not be seen.

    Examples:
        donjon gold verify debian12.qcow2 --signers /etc/donjon/signers
    """
    gold = verify_image(image, Register(register), signers)
    digest = gold.sha256.value if isinstance(gold.sha256, Known) else None
    return SealShown(gold.path, digest, _wrong(gold, common, program))


def diff(
    image: _Image,
    clone: Annotated[Path, Parameter(metavar="CLONE", help="Disk image of a VM that was made of it.")],
    /,
    *,
    register: _RegisterFolder = REGISTER,
    forbid: Annotated[
        tuple[str, ...], Parameter(metavar="PATTERN", help="Paths that must not differ; may be repeated (else none).")
    ] = (),
    image_format: _Format = None,
    common: Common = COMMON,
) -> DriftShown:
    """Show how far a clone has gone from what its gold image was when it was sealed.

    Ends with 20 if a path differs that --forbid names, with 21 if something could not be compared.

    Examples:
        donjon gold diff debian12.qcow2 web1.qcow2 --forbid '/etc/ssh/*'
    """
    del common
    entry = Register(register).find(image.absolute())
    if entry is None:
        raise ConfigError(f"cannot compare with {image}: it was never sealed in {register}", hint="donjon gold seal")
    return DriftShown(str(image), str(clone), compare(entry.seal, inspect_image(clone, image_format), forbid))


def _wrong(gold: Gold, common: Common, program: Given) -> tuple[Judged, ...]:
    """What the rules of gold images say of this one, but for what passes."""
    session = Session(common, program)
    no_vms = Domains(Known((), "no host is looked at"))
    nowhere = msgspec.structs.replace(read_host(Bundle(Manifest())), gold=(gold,), domains=no_vms)
    controls = [one.id for one in catalogue().controls if one.area == "GLD"]
    today = datetime.now(UTC).date()
    judged = judge([nowhere], Profile("gold", hosts="KXO"), today, controls, Beside().known_holes(session))
    told = {Status.FAIL, Status.UNKNOWN}
    return tuple(one for one in judged.results if one.status in told and one.subject == gold.path)
