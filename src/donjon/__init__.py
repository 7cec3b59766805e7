# SPDX-License-Identifier: Apache-2.0
"""donjon protects a virtualization installation: backup and recovery of its VMs, security of its hosts."""

__version__ = "0.1.0.dev0"
