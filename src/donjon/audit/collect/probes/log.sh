# SPDX-License-Identifier: Apache-2.0
# Audit, logs and time; and where a secret is in arguments or logs: only its kind and its place leave the host.
probe audit-status 5 auditctl -s
probe audit-rules 5 auditctl -l
copy /etc/audit/auditd.conf '/etc/audit/rules.d/*.rules' /etc/audit/audit.rules /etc/audit.rules
look /usr/bin/virsh /usr/sbin/xl /usr/bin/xl /usr/sbin/xm /usr/bin/xm /usr/bin/qemu-img /usr/bin/qemu-nbd
look /etc/libvirt /etc/xen /etc/ovs-agent /OVS/Repositories /var/lib/libvirt/images /var/lib/xen/images

copy /etc/rsyslog.conf '/etc/rsyslog.d/*.conf' /etc/syslog.conf /etc/syslog-ng/syslog-ng.conf '/etc/syslog-ng/conf.d/*.conf'
copy /etc/systemd/journal-upload.conf /etc/audit/audisp-remote.conf /etc/audisp/audisp-remote.conf
copy '/etc/audit/plugins.d/*.conf' '/etc/audisp/plugins.d/*.conf'
look -d 1 /var/log/xen /var/log/xen/console
copy /etc/logrotate.conf '/etc/logrotate.d/*'

probe chrony-tracking 5 chronyc -n tracking
probe chrony-sources 5 chronyc -n sources
probe ntp-peers 5 ntpq -pn
probe timedatectl 5 timedatectl show

shell secret-places 10 '
    LC_ALL=C
    export LC_ALL
    kinds="
    function kinds(text,   found) {
        found = \"\"
        if (text ~ /vnc [^ ]*,passwor[d]=[^ ,]/ && text !~ /vnc [^ ]*,passwor[d]=(on|off|yes|no)([ ,]|\$)/) found = found \" vnc-password\"
        if (text ~ /spice[^ ]*[ ,]passwor[d]=[^ ,]/) found = found \" spice-password\"
        if (text ~ /(vnc|spice)?passw[d]=[^ ,)*(\[]/) found = found \" passwd\"
        if (text ~ /secret,[^ ]*data=[^ ,*(\[]/ && text !~ /keyid/) found = found \" secret-data\"
        if (text ~ /rb[d]:[^ ]*:key=[A-Za-z0-9+\/=]/) found = found \" rbd-key\"
        if (text ~ /isc[s]i:\/\/[^ \/@]*%%?[^ \/@]+@/) found = found \" iscsi-password\"
        if (text ~ /(RESTIC|RCLONE|BORG|PG|MYSQL)_?(PASSWOR[D]|PASSPHRAS[E]|PW[D]|KE[Y])=[^ *\[]/) found = found \" backup-password\"
        if (text ~ /--?(passwor[d]|passphras[e]|api-ke[y]|toke[n])[= ][^] *\/\[-]/) found = found \" password-option\"
        if (text ~ /sshpas[s] -p/) found = found \" sshpass\"
        if (text ~ /[a-z]:\/\/[^ \/@:*]+:[^ \/@*\[]+@/) found = found \" password-in-url\"
        return found
    }"
    cd /proc || exit
    grep -aH "" [0-9]*/cmdline 2>/dev/null | tr "\000" " " | awk "$kinds"'"'"'
        {
            at = index($0, "/cmdline:")
            pid = substr($0, 1, at - 1)
            text = substr($0, at + 9)
            name = text
            sub(/ .*/, "", name)
            sub(/.*\//, "", name)
            if (pid == 1) seen = 1
            if (name ~ /^([mg]?awk|busybox|grep|sed)$/ || text ~ /function kind[s]/) next
            count = split(kinds(text), kind, " ")
            for (i = 1; i <= count; i++) print "process\t" pid "\t" name "\t" kind[i]
        }
        END { exit !seen }'"'"' || exit
    [ "$(id -u)" = 0 ] || printf "unread\t/var/log\n"
    for log in /var/log/libvirt/qemu/*.log /var/log/libvirt/libxl/*.log /var/log/xen/*.log /var/log/ovs-agent.log \
        /var/log/libvirt/*.log; do
        [ -f "$log" ] || continue
        [ -r "$log" ] || { printf "unread\t%s\n" "$log"; continue; }
        set -- "$@" "$log"
    done
    [ $# -eq 0 ] || grep -HiE "passw|secret|_pwd|key=|:/{2}[^/]*@|isc[s]i:|token" -- "$@" | awk "$kinds"'"'"'
        {
            at = index($0, ":")
            count = split(kinds(substr($0, at + 1)), kind, " ")
            for (i = 1; i <= count; i++) seen["log\t" substr($0, 1, at - 1) "\t" kind[i]] = 1
        }
        END { for (one in seen) print one }'"'"'
    echo end'
