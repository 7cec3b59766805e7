# SPDX-License-Identifier: Apache-2.0
"""The verbs, one function each: words become typed values, a use case does the work, its outcome becomes a result."""
