# SPDX-License-Identifier: Apache-2.0
"""Signatures that stock ssh-keygen makes and verifies, so that a seal can be proven without donjon.

    ssh-keygen -Y verify -f SIGNERS -I WHO -n donjon-gold -s FILE.sig < FILE

Source: ssh-keygen(1), "-Y sign", "-Y verify", "ALLOWED SIGNERS".
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from donjon.audit.facts.guests import Signature
from donjon.errors import HostError
from donjon.host_command import run

NAMESPACE = "donjon-gold"
TIMEOUT_S = 30


def sign(content: bytes, key: Path) -> bytes:
    """A signature by a key of ssh: a private key without passphrase, or a public one whose private key an agent holds.

    Raises:
        HostError: ssh-keygen is not installed, or cannot use the key.
    """
    words = ["ssh-keygen", "-Y", "sign", "-q", "-f", str(key), "-n", NAMESPACE]
    done = run(words, timeout_s=TIMEOUT_S, input=content, check=False)
    if done.returncode != 0 or b"BEGIN SSH SIGNATURE" not in done.stdout:
        raise HostError(
            f"cannot sign with {key}: {done.complaint}",
            hint="name a key that `ssh-keygen -t ed25519` made; one with a passphrase must be in an ssh-agent",
        )
    return done.stdout


def verify_signature(content: bytes, signature: bytes, signers: Path) -> Signature:
    """Whether one of the allowed signers has signed the content.

    Args:
        content: what was signed.
        signature: as `sign` gave it.
        signers: ssh's file of allowed signers: lines of WHO and public key.

    Raises:
        HostError: ssh-keygen is not installed, or `signers` cannot be read.
    """
    if not signers.is_file():
        raise HostError(
            f"cannot verify signatures: there is no {signers}", hint="put lines of WHO and public key into it"
        )
    with TemporaryDirectory(prefix="donjon-") as folder:
        file = Path(folder) / "signature"
        file.write_bytes(signature)
        asked = ["ssh-keygen", "-Y", "find-principals", "-s", str(file), "-f", str(signers)]
        found = run(asked, timeout_s=TIMEOUT_S, check=False)
        names = found.stdout.decode(errors="replace").split("\n")[0].split(",")
        if found.returncode != 0 or not names[0]:
            return Signature(good=False, reason="no allowed signer made it")
        words = ["ssh-keygen", "-Y", "verify", "-f", str(signers), "-I", names[0], "-n", NAMESPACE, "-s", str(file)]
        done = run(words, timeout_s=TIMEOUT_S, input=content, check=False)
    if done.returncode != 0:
        return Signature(good=False, key=names[0], reason="it does not fit what it is beside")
    return Signature(good=True, key=f"{names[0]} {_fingerprint(done.stdout)}".strip())


def _fingerprint(said: bytes) -> str:
    """Of 'Good "donjon-gold" signature for WHO with ED25519 key SHA256:...'."""
    word = said.decode(errors="replace").split()[-1:]
    return word[0] if word and word[0].startswith("SHA256:") else ""
