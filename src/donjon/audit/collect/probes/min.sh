# SPDX-License-Identifier: Apache-2.0
# What runs on the host: processes, listening sockets, services; and the helper that joins guests to bridges.

# One line per process: "process PID PARENT UID STARTED NAME EXECUTABLE LABEL ARGUMENT..." with tabs between, then
# "deleted PID PATH" for mapped code that was replaced, then "end". Secrets in arguments become ***.
donjon_processes='
function blank(text,   out, cut) {
    gsub(/:\/\/[^\/@:% ]*[:%][^\/@ ]*@/, "://***@", text)
    out = ""
    while (match(tolower(text), secret)) {
        out = out substr(text, 1, RSTART + RLENGTH - 1)
        text = substr(text, RSTART + RLENGTH)
        if (text ~ /^(on|off)(,|$)/) continue
        out = out "***"
        cut = match(text, /,[A-Za-z0-9_.-]+=/)
        text = cut ? substr(text, cut) : ""
    }
    return out text
}
function arguments(line, name,   word, count, i, out, hide) {
    count = split(line, word, "\037")
    if (word[count] == "") count--
    out = ""
    hide = 0
    for (i = 1; i <= count; i++) {
        if (hide && word[i] !~ /^-/) { out = out "\t***"; hide = 0; continue }
        hide = tolower(word[i]) ~ /^--?[a-z_-]*(passw(or)?d|passphrase|secret|token|api[-_]?key)$/
        if (name in takes && word[i] ~ takes[name]) { out = out "\t" substr(word[i], 1, 2) "***"; hide = length(word[i]) == 2; continue }
        if (name ~ /^(sshpass|mysql|mariadb)/ && word[i] ~ /^-p/) { out = out "\t-p***"; hide = word[i] == "-p"; continue }
        out = out "\t" blank(word[i])
    }
    return out
}
BEGIN {
    secret = "((pass|passw(or)?d|passphrase|secret|token|api[-_]?key|credentials?|data|authorization)\"?[=:]|:key=) *\"?"
    takes["curl"] = "^-[uU]"
    takes["smbclient"] = "^-U"
    takes["ipmitool"] = "^-P"
    takes["openssl"] = "^-k"
    takes["snmpget"] = takes["snmpwalk"] = takes["snmptrap"] = "^-[cAX]"
}
/^hz / { hz = $2 }
/^btime / { boot = $2 }
/^[lr]/ && / [0-9]+\/exe -> / {
    at = index($0, "/exe -> ")
    pid = substr($0, 1, at - 1)
    sub(/.* /, "", pid)
    exe[pid] = substr($0, at + 8)
}
/^[0-9]+\/[a-z\/]+:/ {
    pid = $0; sub(/\/.*/, "", pid)
    kind = $0; sub(/^[0-9]+\//, "", kind); sub(/:.*/, "", kind)
    rest = substr($0, length(pid) + length(kind) + 3)
    if (kind == "stat") stat[pid] = stat[pid] rest
    else if (kind == "status") { split(rest, ids, " "); uid[pid] = ids[2] }
    else if (kind == "attr/current") { sub(/\037.*/, "", rest); label[pid] = rest }
    else if (kind == "cmdline") { if (pid in line) rest = line[pid] " " rest; line[pid] = rest }
    else if (kind == "maps") { sub(/^[^\/]*/, "", rest); sub(/ \(deleted\)$/, "", rest); gone[pid "\t" rest] = 1 }
}
END {
    for (pid in stat) {
        if (exe[pid] == "" && line[pid] == "") continue
        name = stat[pid]
        sub(/^[^(]*\(/, "", name)
        match(name, /.*\)/)
        split(substr(name, RLENGTH + 2), field, " ")
        name = substr(name, 1, RLENGTH - 1)
        printf "process\t%s\t%s\t%s\t%d\t%s\t%s\t%s%s\n", pid, field[2], uid[pid], boot + field[20] / hz, name, \
            exe[pid], label[pid], arguments(line[pid], name)
    }
    for (one in gone) printf "deleted\t%s\n", one
    print "end"
}'
export donjon_processes
shell processes 10 '
    LC_ALL=C
    export LC_ALL
    cd /proc || exit 1
    {
        echo "hz $(getconf CLK_TCK 2>/dev/null || echo 100)"
        grep "^btime" stat
        grep -aH "" [0-9]*/stat
        grep -H "^Uid:" [0-9]*/status
        grep -aH "" [0-9]*/attr/current
        ls -l [0-9]*/exe
        grep -aH "" [0-9]*/cmdline
        long_lived=$(grep -alE "^[0-9]+ \((qemu|kvm|libvirt|virt|xen|oxen|xl|sshd|dnsmasq|ovs|swtpm|multipathd)" [0-9]*/stat |
            sed "s,stat$,maps,")
        [ -z "$long_lived" ] || grep -aH " r-xp .*(deleted)$" $long_lived
    } 2>/dev/null | tr "\000\011" "\037 " | awk "$donjon_processes"'

shell listeners 5 '
    if command -v ss >/dev/null 2>&1; then ss -lntup
    elif command -v netstat >/dev/null 2>&1; then netstat -lntup
    else cat /proc/net/tcp /proc/net/udp && { [ ! -e /proc/net/tcp6 ] || cat /proc/net/tcp6 /proc/net/udp6; }
    fi'

shell init 5 '
    if [ -d /run/systemd/system ]; then echo systemd
    elif grep -q "^1 (init)" /proc/1/stat; then echo sysv
    else echo none
    fi'
# Where systemd does not run, its client takes a second to say nothing.
shell unit-files 20 '[ -d /run/systemd/system ] || exit 127
    systemctl list-unit-files --no-pager --no-legend "*.service" "*.socket" "*.timer"'
shell units 20 '[ -d /run/systemd/system ] || exit 127; systemctl list-units --all --plain --no-pager --no-legend'
probe chkconfig 5 chkconfig --list
shell subsys 5 'ls /var/lock/subsys'

look /usr/lib/qemu/qemu-bridge-helper /usr/libexec/qemu-bridge-helper
copy /etc/qemu/bridge.conf /etc/qemu-kvm/bridge.conf
# Communities of SNMP versions 1 and 2c: "default" for those that everybody knows, "own" for others; never their names.
shell snmp-communities 5 '
    set --
    for file in /etc/snmp/snmpd.conf /etc/snmp/snmpd.local.conf /etc/snmp/snmpd.conf.d/*.conf; do
        [ -e "$file" ] && set -- "$@" "$file"
    done
    [ $# -gt 0 ] || exit 0
    awk "
        function say(name) { print (name == \"public\" || name == \"private\") ? \"default\" : \"own\" }
        /^[ \t]*r[ow]community6?[ \t]/ { say(\$2) }
        /^[ \t]*com2sec6?[ \t]/ { say(\$4) }" "$@"'
