# SPDX-License-Identifier: Apache-2.0
# Backup: how donjon is set up here, what backups left behind, definitions of VMs that lie about.

# "program PATH"; of each repository in a configuration "repository LOCATION FILE-SYSTEM DEVICE"; of each file with a
# repository's password "keyfile MODE USER GROUP PATH"; tabs between; then "end".
shell donjon-setup 5 '
    tab=$(printf "\t")
    for program in donjon restic; do
        path=$(command -v $program) && printf "program\t%s\n" "$path"
    done
    set --
    for file in /etc/donjon/config.toml /root/.config/donjon/config.toml /etc/systemd/system/*donjon* \
        /etc/systemd/system/*donjon*.d/*.conf /etc/systemd/system/*restic* /usr/lib/systemd/system/*donjon*; do
        [ -f "$file" ] && set -- "$@" "$file"
    done
    [ $# -eq 0 ] || awk '"'"'
        function value(text) {
            sub(/^[^=]*=[ \t]*/, "", text)
            quote = substr(text, 1, 1)
            if (quote == "\"" || quote == "\047") { text = substr(text, 2); sub(quote ".*", "", text) }
            return text
        }
        /^[ \t]*location[ \t]*=/ { print "repository\t" value($0) }
        /^[ \t]*password_file[ \t]*=/ { print "keyfile\t" value($0) }
        /^Environment=.*(DONJON|RESTIC)_PASSWORD_FILE=/ { sub(/.*_PASSWORD_FILE=/, ""); sub(/["\047 ].*/, ""); print "keyfile\t" $0 }
        /^LoadCredential=[^:]*:\// { sub(/^[^:]*:/, ""); print "keyfile\t" $0 }'"'"' "$@" | sort -u |
    while IFS="$tab" read -r kind path; do
        if [ "$kind" = keyfile ]; then
            stat -c "keyfile${tab}%a${tab}%U${tab}%G${tab}%n" -- "$path" 2>/dev/null || printf "keyfile\t\t\t\t%s\n" "$path"
        else
            set -- $(df -P -T -- "${path#local:}" 2>/dev/null | sed 1d | tail -n 1)
            printf "repository\t%s\t%s\t%s\n" "$path" "$2" "$1"
        fi
    done
    echo end'
copy '/etc/systemd/system/*donjon*' '/etc/systemd/system/*donjon*.d/*.conf' '/usr/lib/systemd/system/*donjon*'

# Snapshots and checkpoints of all VMs, by one virsh: "@snapshots UUID", "@checkpoints UUID" before each table.
shell vm-leftovers 10 '
    command -v virsh >/dev/null 2>&1 || exit 127
    [ -n "$LIBVIRT_DEFAULT_URI" ] || export LIBVIRT_DEFAULT_URI=qemu:///system
    uuids=$(virsh -r list --all --uuid) || exit
    checkpoints=
    virsh help checkpoint-list >/dev/null 2>&1 && checkpoints=yes
    batch=
    for uuid in $uuids; do
        batch="${batch}echo @snapshots $uuid; snapshot-list $uuid; "
        [ -z "$checkpoints" ] || batch="${batch}echo @checkpoints $uuid; checkpoint-list $uuid; "
    done
    virsh -r "${batch}echo @end"'

# Definitions of VMs outside of where their hypervisor keeps them: "MODE USER GROUP SECRET PATH" with tabs, then "end".
shell plain-definitions 5 '
    set --
    for file in /root/*.xml /root/*/*.xml /home/*/*.xml /home/*/*/*.xml /var/backups/*.xml /var/backups/*/*.xml \
        /backup/*.xml /backup/*/*.xml /srv/backup/*.xml /srv/backup/*/*.xml /var/backups/*/vm.cfg /backup/*/vm.cfg; do
        [ -f "$file" ] && set -- "$@" "$file"
    done
    if [ $# -gt 0 ]; then
        grep -lE "<domain |^ *(vif|disk) *= *\[" "$@" | while IFS= read -r file; do
            hidden=no
            grep -qE "passwd=.[^ ]|vncpasswd" "$file" && hidden=yes
            stat -c "%a	%U	%G	$hidden	%n" -- "$file"
        done
    fi
    echo end'
