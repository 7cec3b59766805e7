# SPDX-License-Identifier: Apache-2.0
# The network, and the packet filter.
shell ip-addresses 10 'ip -j -d addr show 2>/dev/null || ip addr show'
shell ip-routes 5 '
    if ip -j route show 2>/dev/null; then
        ip -j -6 route show 2>/dev/null
    else
        ip route show && { ip -6 route show 2>/dev/null; :; }
    fi'
shell bridge-vlans 5 'bridge -j vlan show 2>/dev/null || bridge vlan show'
shell bridges 5 'brctl show'
shell vlans 5 'if [ -e /proc/net/vlan/config ]; then cat /proc/net/vlan/config; fi'
shell bonds 5 'for bond in /proc/net/bonding/*; do if [ -e "$bond" ]; then grep -H "^Slave Interface" "$bond"; fi; done; :'
probe net-devices 5 ls -l /sys/class/net
shell forwarding 5 '
    grep -H "" /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv[46]/conf/*/forwarding 2>/dev/null
    :'
# Which tables sleep is not in the JSON of nft 1.0.
shell nft-ruleset 10 '
    nft -j list ruleset && nft list ruleset |
        awk "\$1 == \"table\" { table = \$2 \" \" \$3 } /^[[:space:]]*flags.*dormant/ { print \"dormant \" table }"'
probe iptables 10 iptables-save
probe ip6tables 10 ip6tables-save
# Older tables beside newer ones; only read where there are some, for reading loads the module.
shell iptables-legacy 10 '
    [ -e /proc/net/ip_tables_names ] || exit 0
    names=$(cat /proc/net/ip_tables_names) || exit 1
    [ -n "$names" ] || exit 0
    if command -v iptables-legacy-save >/dev/null 2>&1; then iptables-legacy-save; else iptables-save; fi'
shell ip6tables-legacy 10 '
    [ -e /proc/net/ip6_tables_names ] || exit 0
    names=$(cat /proc/net/ip6_tables_names) || exit 1
    [ -n "$names" ] || exit 0
    if command -v ip6tables-legacy-save >/dev/null 2>&1; then ip6tables-legacy-save; else ip6tables-save; fi'
copy /etc/sysconfig/iptables /etc/sysconfig/ip6tables /etc/iptables/rules.v4 /etc/iptables/rules.v6
# The stored nftables rules as the kernel would have them: loaded in a network namespace of their own, which goes at once.
shell nft-stored 10 '
    for file in /etc/sysconfig/nftables.conf /etc/nftables.conf; do
        [ -f "$file" ] || continue
        command -v nft >/dev/null 2>&1 || exit 127
        exec unshare -n sh -c "nft -f \"$file\" && nft -j list ruleset"
    done'
shell firewalld-running 5 'if [ -d /run/firewalld ]; then firewall-cmd --list-all-zones; fi'
shell firewalld-stored 5 'if [ -d /run/firewalld ]; then firewall-cmd --permanent --list-all-zones; fi'
