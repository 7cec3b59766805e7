# SPDX-License-Identifier: Apache-2.0
# Memory, and how guests share it.
shell ksm 5 'cd /sys/kernel/mm/ksm 2>/dev/null || exit 127; grep -H . run pages_shared pages_sharing merge_across_nodes'
probe meminfo 5 cat /proc/meminfo
# KiB of each device model in swap: "PID KIB".
shell guest-swap 5 '
    cat /proc/[0-9]*/status 2>/dev/null | awk "
        /^Name:/ { qemu = \$2 ~ /^(qemu|kvm\$)/; count++ }
        /^Pid:/ { pid = \$2 }
        /^VmSwap:/ && qemu { print pid, \$2 }
        END { print \"processes\", count }"'
