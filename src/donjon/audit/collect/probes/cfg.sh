# SPDX-License-Identifier: Apache-2.0
# Critical configuration: libvirt's settings, modes of what must be private, hashes of what must not drift.
copy '/etc/libvirt/*.conf'
shell libvirt-version 5 'for daemon in libvirtd virtqemud; do
        for program in "$daemon" "/usr/sbin/$daemon"; do
            command -v "$program" >/dev/null 2>&1 && exec "$program" --version
        done
    done
    exit 127'
probe libvirt-capabilities 5 virsh -r -c qemu:///system capabilities
look -d 3 /etc/libvirt
look -d 2 /etc/xen /etc/qemu
look -d 1 /var/lib/xen /etc/ovm.conf
look -d 3 /etc/ovs-agent
look '/OVS/Repositories/*/VirtualMachines/*' '/OVS/Repositories/*/VirtualMachines/*/vm.cfg'
look '/OVS/Repositories/*/Templates/*' '/OVS/Repositories/*/Templates/*/vm.cfg'
copy '/etc/xen/*.cfg'

# Private keys, where libvirt, QEMU, sshd and Oracle VM keep them, and what leads there.
look -d 1 /etc/ssh /etc/pki/libvirt/private /etc/pki/qemu /etc/pki/libvirt-vnc /etc/pki/libvirt-spice \
    /etc/pki/libvirt-migrate /etc/pki/libvirt-nbd /etc/pki/libvirt-backup /etc/pki/libvirt-chardev /etc/ovs-agent/cert
look / /etc /etc/pki /etc/pki/libvirt

# Everything above images, configuration and control sockets; and every socket that somebody listens on.
shell way-to-images 5 '
    {
        sed -n "s/.*<source file=[\"'"'"']\([^\"'"'"']*\).*/\1/p" /etc/libvirt/qemu/*.xml
        sed -n "s/.*\(file\|tap:aio\|phy\|target=\):*\(\/[^,\"'"'"']*\).*/\2/p" /etc/xen/*.cfg
    } 2>/dev/null | head -n 1000 | awk "{
        path = \$0
        while (sub(/\/[^\/]*\$/, \"\", path) && path != \"\") if (!(path in seen)) { seen[path] = 1; print path }
    }"'
look /run /var /var/run /var/lib /var/lib/libvirt /var/lib/libvirt/images /var/lib/xen /var/lib/xen/images /OVS /OVS/Repositories
look -d 4 /run/libvirt /var/run/libvirt /run/xenstored /var/run/xenstored
look -d 2 /var/lib/libvirt/qemu /run/xen /var/run/xen /var/lib/libvirt/swtpm
donjon_ways=$(cat "$raw/way-to-images.out" 2>/dev/null)
donjon_sockets=$(awk '$4 == "00010000" && $8 ~ /^\// { print $8 }' /proc/net/unix 2>/dev/null)
for donjon_list in "$donjon_ways" "$donjon_sockets"; do
    IFS=$newline
    set -f
    [ -z "$donjon_list" ] || look $donjon_list
    set +f
    IFS=$plain_ifs
done

# Hooks that run as root: their hashes, whose they are, and what the package manager says has been changed.
shell hooks 10 '
    [ "$(id -u)" = 0 ] || { echo "only root sees all of them" >&2; exit 1; }
    for path in /etc/libvirt/hooks/* /etc/libvirt/hooks/*.d/* /etc/qemu/fsfreeze-hook.d/* /etc/xen/scripts/* \
        /etc/ovs-agent/hooks/*; do
        [ -f "$path" ] && set -- "$@" "$path"
    done
    [ $# -gt 0 ] || { echo end; exit 0; }
    if command -v sha256sum >/dev/null 2>&1; then
        sha256sum -- "$@" | sed "s/^\([0-9a-f]*\) [ *]/hash \1 /"
    else
        openssl dgst -sha256 -- "$@" | sed "s/^SHA256(\(.*\))= /hash \1 /; s/^hash \(.*\) \([0-9a-f]\{64\}\)\$/hash \2 \1/"
    fi
    if command -v dpkg >/dev/null 2>&1; then
        owners=$(dpkg -S "$@" 2>/dev/null | sed "s/^\([^ ]*\): \(.*\)/\1 \2/; s/^\([^ :]*\):[a-z0-9]* /\1 /")
    elif command -v rpm >/dev/null 2>&1; then
        owners=$(for path; do name=$(rpm -qf --qf "%{NAME}" "$path" 2>/dev/null) && echo "$name $path"; done)
    else
        owners=
    fi
    [ -z "$owners" ] || printf "%s\n" "$owners" | sed "s/^/owner /"
    packages=$(printf "%s\n" "$owners" | cut -d" " -f1 | sort -u)
    if [ -n "$packages" ]; then
        if command -v dpkg >/dev/null 2>&1; then dpkg --verify $packages; else rpm -V --nodeps --noscripts $packages; fi |
            sed -n "s/^..5[^/]*\(\/.*\)/changed \1/p; s/^missing[^/]*\(\/.*\)/changed \1/p"
    fi
    echo end'

# Hashes of critical configuration. Lines that hold a secret are left out first: a hash of a short one can be guessed.
shell baseline-hashes 10 '
    command -v sha256sum >/dev/null 2>&1 || exit 127
    [ "$(id -u)" = 0 ] || { echo "only root sees all of them" >&2; exit 1; }
    for path in /etc/passwd /etc/group /etc/fstab /etc/exports /etc/crontab /etc/ld.so.preload /etc/hosts.allow \
        /etc/hosts.deny /etc/sudoers /etc/sudoers.d/* /etc/ssh/sshd_config /etc/ssh/sshd_config.d/* /etc/pam.d/sshd \
        /etc/pam.d/su /etc/pam.d/sudo /etc/pam.d/system-auth /etc/pam.d/common-auth /etc/nsswitch.conf \
        /etc/cron.d/* /etc/polkit-1/rules.d/* /etc/systemd/system/*.service /etc/systemd/system/*.d/*.conf \
        /etc/rc.local /etc/rc.d/rc.local /etc/sysctl.conf /etc/sysctl.d/*.conf /etc/modprobe.d/*.conf \
        /etc/default/grub /etc/default/grub.d/*.cfg /boot/grub/grub.cfg /boot/grub2/grub.cfg /boot/grub/grub.conf \
        /etc/libvirt/*.conf /etc/libvirt/hooks/* /etc/libvirt/qemu/networks/*.xml /etc/qemu/*.conf \
        /etc/xen/*.conf /etc/xen/*.sxp /etc/xen/scripts/* /etc/ovs-agent/*.ini /etc/ovm.conf \
        /etc/nftables.conf /etc/sysconfig/iptables /etc/iptables/rules.v4 /etc/iptables/rules.v6 \
        /etc/audit/auditd.conf /etc/audit/rules.d/*.rules /etc/audit.rules /etc/rsyslog.conf /etc/rsyslog.d/*.conf \
        /etc/syslog.conf /etc/chrony.conf /etc/chrony/chrony.conf /etc/ntp.conf /etc/lvm/lvm.conf; do
        [ -f "$path" ] && set -- "$@" "$path"
    done
    secret="passw[a-z_]*[\"'"'"' ]*[=: ][\"'"'"' ]*[^ ]|pwd=|secret|community|_key *="
    for path; do
        shift
        if [ ! -r "$path" ]; then echo "unread $path"
        elif [ "${path#/etc/libvirt/}" = "$path" ] && [ "${path#/etc/xen/}" = "$path" ] &&
            [ "${path#/etc/rsyslog}" = "$path" ] && [ "${path#/etc/ovs}" = "$path" ]; then set -- "$@" "$path"
        else printf "%s  %s\n" "$(grep -viE "$secret" "$path" | sha256sum | cut -c1-64)" "$path"
        fi
    done
    [ $# -eq 0 ] || sha256sum -- "$@"
    echo end'
