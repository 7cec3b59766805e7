# SPDX-License-Identifier: Apache-2.0
"""From a host to a bundle: the one part of the audit that touches hosts."""
