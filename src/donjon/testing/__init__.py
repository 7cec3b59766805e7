# SPDX-License-Identifier: Apache-2.0
"""What tests are made of, for donjon and for those who extend it: fakes, faults and contract suites."""
