# SPDX-License-Identifier: Apache-2.0
# VMs: their definitions as each hypervisor has them, running or not. Passwords of consoles become a flag here.

# Replaces the value after any word with "pass" in it, and QEMU's secrets, by "(set)": in xl.cfg, vm.cfg, XML and JSON.
donjon_blank='
function blank(text,   out, quote, value) {
    out = ""
    while (match(text, /([Pp][Aa][Ss][Ss][A-Za-z_]*|[,\047"]data|secret)["\047]?[ \t]*[=:][ \t]*["\047]?/)) {
        quote = substr(text, RSTART + RLENGTH - 1, 1)
        out = out substr(text, 1, RSTART + RLENGTH - 1)
        text = substr(text, RSTART + RLENGTH)
        value = "^[^\"\047,)<]+"
        if (quote == "\"") value = "^([^\"\\\\]|\\\\.)+"
        if (quote == "\047") value = "^([^\047\\\\]|\\\\.)+"
        if (match(text, value)) {
            out = out "(set)"
            text = substr(text, RLENGTH + 1)
        }
    }
    return out text
}'
export donjon_blank

# All VMs of libvirt with two processes of virsh: "@live UUID" and "@stored UUID" before each definition, then who
# starts with the host, who is persistent, who is there in the end.
shell domains 20 '
    if [ -z "$LIBVIRT_DEFAULT_URI" ]; then
        LIBVIRT_DEFAULT_URI=qemu:///system
        [ -e /proc/xen/capabilities ] && LIBVIRT_DEFAULT_URI=xen:///system
        export LIBVIRT_DEFAULT_URI
    fi
    uuids=$(virsh -r "list --uuid; echo @all; list --all --uuid") || exit
    batch=$(printf "%s\n" "$uuids" | awk "
        /@all/ { all = 1; next }
        NF && all { printf \"echo @live %s; dumpxml %s; \", \$1, \$1 }
        NF && !all { printf \"echo @stored %s; dumpxml %s --inactive; \", \$1, \$1 }")
    text=$(virsh -r "${batch}echo @autostart; list --all --uuid --autostart; echo @persistent; list --all --uuid --persistent; echo @there; list --all --uuid") || exit
    printf "%s\n" "$text" | awk "$donjon_blank"'"'"'
        { sub(/^[ \t]+/, "") }
        /^$/ || /^<alias / || /^<address type=/ || /^<timer / { next }
        /^<controller type=.pci/ { inside = !/\/>$/; next }
        inside { inside = !/^<\/controller>/; next }
        /^<entry name=/ { sub(/>[^<]*/, ">(set)") }
        { print blank($0) }
        END { print "@end" }'"'"
shell domain-pids 5 '
    for file in /run/libvirt/qemu/*.pid /var/run/libvirt/qemu/*.pid; do
        [ -f "$file" ] || continue
        name=${file##*/}
        read -r pid < "$file" || [ -n "$pid" ] || continue
        printf "%s\t%s\n" "${name%.pid}" "$pid"
    done'

# Whether consoles have passwords: only in files that root alone can read, and only yes, no or empty leaves the host.
shell domain-passwords 5 '
    set --
    for file in /etc/libvirt/qemu/*.xml /run/libvirt/qemu/*.xml; do
        [ -f "$file" ] && set -- "$@" "$file"
    done
    [ $# -gt 0 ] || exit 0
    awk '"'"'
        FNR == 1 {
            state = FILENAME ~ /^\/run/ ? "live" : "stored"
            name = FILENAME; sub(/.*\//, "", name); sub(/\.xml$/, "", name)
            print state "\t" name
        }
        /<graphics type=/ {
            kind = $0; sub(/.*<graphics type=./, "", kind); sub(/[\047"].*/, "", kind)
            flag = "no"
            if ($0 ~ / passwd=[\047"]/) flag = $0 ~ / passwd=(\047\047|"")/ ? "empty" : "yes"
            until = ""
            if (match($0, / passwdValidTo=[\047"][0-9T:-]+/)) { until = substr($0, RSTART + 16, RLENGTH - 16) }
            print state "\t" name "\t" kind "\t" flag "\t" until
        }'"'"' "$@"'

shell xl-domains 10 '
    text=$(xl list -l) || exit
    printf "%s\n" "$text" | awk "$donjon_blank"'"'"'{ print blank($0) }'"'"
shell xm-domains 10 '
    command -v xl >/dev/null 2>&1 && [ ! -e /etc/ovs-agent ] && exit 127
    text=$(xm list -l) || exit
    printf "%s\n" "$text" | sed "s/(\([a-z]*pass[a-z]*\) \{1,\}[^ ()].*)/(\1 set)/"'
shell xen-definitions 5 '
    set --
    for file in /etc/xen/*.cfg /etc/xen/auto/* /OVS/Repositories/*/VirtualMachines/*/vm.cfg \
        /OVS/Repositories/*/Templates/*/vm.cfg; do
        [ -f "$file" ] && set -- "$@" "$file"
    done
    [ $# -gt 0 ] || { echo @end; exit 0; }
    awk "$donjon_blank"'"'"'
        FNR == 1 { print "@file " FILENAME }
        { print blank($0) }
        END { print "@end" }'"'"' "$@"'
shell xend-vnc-listen 2 'sed -n "s/^[ (]*vnc-listen  *[^0-9a-z:]*\([^) ]*[0-9a-z]\).*/\1/p" /etc/xen/xend-config.sxp'

look -d 1 '/etc/xen' '/etc/libvirt/qemu'
look '/OVS/Repositories/*/VirtualMachines/*/vm.cfg'

# What the host can lend: PCI devices with class, driver and IOMMU group, functions of network cards, CPU features.
shell pci-devices 5 '
    cd /sys/bus/pci/devices 2>/dev/null || exit 0
    grep -H . */class 2>/dev/null
    ls -ld */driver */iommu_group 2>/dev/null | sed "s/^.* \([^ ]*\) -> .*\//\1 /"
    :'
shell virtual-functions 5 'text=$(ip link show) || exit; printf "%s\n" "$text" | awk "/^[0-9]+: / { sub(/[@:]\$/, \"\", \$2); sub(/@.*/, \"\", \$2); name = \$2 } \$1 == \"vf\" { print name, \$0 }"'
shell cpu-flags 5 'grep -m 1 -E "^(flags|Features)" /proc/cpuinfo'

# Kernels that VMs are started with: whose they are, and what they are.
shell guest-kernels 10 '
    set --
    for file in /etc/libvirt/qemu/*.xml /run/libvirt/qemu/*.xml /etc/xen/*.cfg /etc/xen/auto/* \
        /OVS/Repositories/*/VirtualMachines/*/vm.cfg; do
        [ -f "$file" ] && set -- "$@" "$file"
    done
    [ $# -gt 0 ] || { echo @end; exit 0; }
    awk "
        /<(kernel|initrd|dtb)>/ { sub(/.*<[a-z]+>/, \"\"); sub(/<.*/, \"\"); print; next }
        /^[ \\t]*(kernel|ramdisk)[ \\t]*=/ { if (match(\$0, /\\/[^\\047\"]+/)) print substr(\$0, RSTART, RLENGTH) }" "$@" |
        sort -u | head -n 50 | while IFS= read -r path; do
        [ -f "$path" ] || continue
        owner=$(dpkg -S "$path" 2>/dev/null || rpm -qf "$path" 2>/dev/null) || owner=
        sum=$(sha256sum "$path")
        printf "%s\t%s\t%s\n" "$path" "${sum%% *}" "$(printf %s "$owner" | head -n 1)"
    done
    echo @end'
look -d 0 /var/lib/libvirt/qemu/dump
