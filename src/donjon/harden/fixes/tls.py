# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area TLS: encryption is switched on where the certificates for it are there, and nowhere else.

Sources: libvirt, src/qemu/qemu.conf.in (*_tls_x509_cert_dir, and default_tls_x509_cert_dir for those that are not
there) and src/remote/libvirtd.conf.in; ovs-vsctl(8).
"""

from __future__ import annotations

import re

from donjon.audit.controls.net_migration import RELOCATION_FILES
from donjon.audit.fact import Known, Unseen, need
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.change import Change, Command, Edit, fix, words
from donjon.harden.editors import assignments, expressions
from donjon.harden.services import libvirt_restarted, restarted
