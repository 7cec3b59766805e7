# SPDX-License-Identifier: Apache-2.0
# Accounts, sudo, sshd, polkit, control sockets. No hash, key or comment leaves the host: each is reduced to its class.
shell passwd 5 'awk -F: -v OFS=: "
    /^#/ || NF < 7 { next }
    { if (length(\$2) > 1) \$2 = (\$2 ~ /^[!*]/) ? \"locked\" : \"hash\"; \$5 = \"\"; print }" /etc/passwd'
shell shadow-classes 5 '
    [ -e /etc/shadow ] || exit 0
    awk -F: "
    function class(hash) {
        if (hash == \"\") return \"empty\"
        if (hash ~ /^[!*]/ || hash == \"x\") return \"locked\"
        if (hash ~ /^[\$]1[\$]/) return \"md5\"
        if (hash ~ /^[\$]2[a-z]*[\$]/) return \"bcrypt\"
        if (hash ~ /^[\$]5[\$]/) return \"sha256\"
        if (hash ~ /^[\$]6[\$]/) return \"sha512\"
        if (hash ~ /^[\$]7[\$]/) return \"scrypt\"
        if (hash ~ /^[\$]g?y[\$]/) return \"yescrypt\"
        if (hash ~ /^_/ && length(hash) == 20) return \"des\"
        if (hash !~ /^[\$]/ && length(hash) == 13) return \"des\"
        return \"other\"
    }
    NF > 2 { print \$1 \":\" class(\$2) \":\" \$3 }" /etc/shadow'
shell group 5 'cut -d: -f1,3,4 /etc/group || exit 1
    getent group root sudo wheel admin adm disk docker lxd incus-admin libvirt kvm qemu libvirt-qemu xen oinstall dba \
        2>/dev/null | cut -d: -f1,3,4'
shell last-logins 5 'LC_ALL=C lastlog'
copy /etc/sudoers '/etc/sudoers.d/*' /etc/nsswitch.conf
look -d 1 /etc/sudoers.d
shell sshd-settings 5 '
    sshd=$(command -v sshd || echo /usr/sbin/sshd)
    [ -x "$sshd" ] || exit 127
    CRYPTO_POLICY=
    policy=/etc/crypto-policies/back-ends/opensshserver.config
    if grep -q "^CRYPTO_POLICY=" "$policy" 2>/dev/null && ! grep -q "^CRYPTO_POLICY=" /etc/sysconfig/sshd 2>/dev/null; then
        . "$policy"
    fi
    exec "$sshd" -T $CRYPTO_POLICY'
shell ssh-version 5 'ssh -V 2>&1'
copy /etc/ssh/sshd_config '/etc/ssh/sshd_config.d/*.conf' /etc/crypto-policies/back-ends/opensshserver.config
look -d 1 /etc/ssh
shell host-keys 5 '
    command -v ssh-keygen >/dev/null 2>&1 || exit 127
    for key in /etc/ssh/ssh_host_*_key.pub; do
        [ -e "$key" ] && ssh-keygen -lf "$key"
    done
    :'
shell authorized-keys 5 '
    [ "$(id -u)" = 0 ] || { echo "only root sees the keys of others" >&2; exit 1; }
    cut -d: -f1,6 /etc/passwd | while IFS=: read -r user home; do
        [ ! -d "$home" ] || [ -x "$home" ] || printf "%s\t%s\t\t?\t0\t\n" "$user" "$home"
        for file in "$home/.ssh/authorized_keys" "$home/.ssh/authorized_keys2"; do
            [ -r "$file" ] || continue
            awk -v OFS="\t" -v user="$user" "
            /^[ \t]*(#|\$)/ { next }
            {
                start = match(\$0, /(ssh-(rsa|dss|ed25519)|ecdsa-sha2-[a-z0-9]+|sk-[a-z0-9-]+)(-cert-v01)?(@openssh.com)? +AAAA/)
                if (!start) { print user, FILENAME, \"\", \"?\", 0, \"\"; next }
                options = substr(\$0, 1, start - 1)
                gsub(/=\"([^\"\\\\]|\\\\.)*\"/, \"=\", options)
                gsub(/[ \t]/, \"\", options)
                split(substr(\$0, start), word, / +/)
                print user, FILENAME, options, word[1], length(word[2]), substr(word[2], length(word[2]) - 11)
            }" "$file"
        done
    done'
copy '/etc/polkit-1/rules.d/*.rules' '/usr/share/polkit-1/rules.d/*.rules' '/usr/local/share/polkit-1/rules.d/*.rules'
copy '/etc/polkit-1/localauthority/*/*.pkla' '/var/lib/polkit-1/localauthority/*/*.pkla'
copy /usr/share/polkit-1/actions/org.libvirt.unix.policy
look -d 3 /etc/polkit-1
look -d 1 /usr/share/polkit-1/rules.d /var/lib/polkit-1
look -d 1 /run/libvirt /var/run/libvirt /etc/ovs-agent
look /root/anaconda-ks.cfg /root/install.log
