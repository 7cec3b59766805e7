# SPDX-License-Identifier: Apache-2.0
# What is installed, and what the package manager knows of newer versions; nothing asks the network.

shell packages 20 '
    if [ -s /var/lib/dpkg/status ]; then
        echo deb
        dpkg-query -W -f "\${db:Status-Abbrev}\t\${Package}\t\${Version}\t\${Architecture}\t\${source:Package}\t\${source:Version}\n"
    else
        echo rpm
        rpm -qa --qf "%{NAME}\t%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\t%{ARCH}\t%{SOURCERPM}\t%{INSTALLTIME}\n"
    fi && echo end'
look '/var/lib/dpkg/info/qemu-system*.list' '/var/lib/dpkg/info/libvirt-daemon*.list' \
    '/var/lib/dpkg/info/xen-utils*.list' '/var/lib/dpkg/info/openssh-server.list' \
    '/var/lib/dpkg/info/dnsmasq-base.list'

# What the security archive offers of the packages that are installed, from the lists apt has fetched; asking apt itself
# takes seconds and may write its cache. "list PATH", "offer NAME VERSION ARCH", "end".
donjon_offers='
function done() { if (name in here) print "offer", name, version, arch; name = "" }
/^installed / { here[$2] = 1 }
/^list / { done(); print }
/^Package: / { done(); name = $2; version = arch = "" }
/^Version: / { version = $2 }
/^Architecture: / { arch = $2 }
/^end$/ { done(); print }'
export donjon_offers
shell security-lists 10 '
    [ -x /usr/lib/apt/apt-helper ] || exit 127
    {
        dpkg-query -W -f "\${db:Status-Abbrev} \${Package}\n" | sed -n "s/^.i. */installed /p"
        for list in /var/lib/apt/lists/*security*_Packages*; do
            [ ! -e "$list" ] || { echo "list $list" && /usr/lib/apt/apt-helper cat-file "$list"; } || exit 1
        done && echo end
    } | awk "$donjon_offers"'

shell rpm-security 20 '
    if [ -s /var/lib/dpkg/status ]; then exit 127
    elif command -v dnf >/dev/null 2>&1; then dnf -C -q updateinfo list --security
    elif command -v yum >/dev/null 2>&1; then yum -C -q updateinfo list security || yum -C -q list-security
    else exit 127
    fi'

# When each piece of the package manager's knowledge was fetched: "SECONDS PATH".
shell update-metadata 5 '
    stat -c "%Y %n" /var/lib/apt/lists/*InRelease /var/lib/apt/lists/*_Release /var/lib/apt/periodic/update-success-stamp \
        /var/cache/dnf/*/repodata/repomd.xml /var/cache/libdnf5/*/repodata/repomd.xml /var/cache/yum/*/cachecookie \
        /var/cache/yum/*/*/*/cachecookie 2>/dev/null; :'

copy /etc/apt/sources.list '/etc/apt/sources.list.d/*' /etc/apt/apt.conf '/etc/apt/apt.conf.d/*' \
    /etc/yum.conf /etc/dnf/dnf.conf '/etc/yum.repos.d/*.repo'

shell live-patches 5 '
    for patch in /sys/kernel/livepatch/*/enabled; do [ ! -e "$patch" ] || echo "$patch $(cat "$patch")"; done'
probe uptrack 5 uptrack-uname -r

# Build id of each hypervisor on disk, "HEX PATH": of ELF in its GNU note, of EFI in its CodeView record.
shell xen-images 5 '
    note="\x04\x00\x00\x00\x14\x00\x00\x00\x03\x00\x00\x00GNU\x00"
    after() { grep -aobP -m 1 "$1" | head -n 1 | cut -d: -f1; }
    bytes() { tail -c "+$1" | head -c "$2" | od -An -v -tx1 | tr -d " \n"; }
    for image in /boot/xen-*.gz; do
        [ -f "$image" ] && [ ! -L "$image" ] || continue
        at=$(gzip -dc "$image" | after "$note")
        [ -n "$at" ] && echo "$(gzip -dc "$image" | bytes $((at + 17)) 20) $image" || echo "- $image"
    done
    for image in /boot/xen-*.efi /boot/efi/EFI/*/xen*.efi; do
        [ -f "$image" ] && [ ! -L "$image" ] || continue
        at=$(after RSDS <"$image")
        [ -n "$at" ] && echo "$(bytes $((at + 5)) 16 <"$image") $image" || echo "- $image"
    done'
probe xen-livepatch 5 xen-livepatch list
# Xen advisories that the changelog of the installed hypervisor names as fixed.
shell xen-changelog 10 '
    for log in /usr/share/doc/xen-hypervisor-*/changelog.Debian.gz; do
        [ ! -f "$log" ] || gzip -dc "$log" | grep -o "XSA-[0-9][0-9]*"
    done
    ! command -v rpm >/dev/null 2>&1 || rpm -q --changelog xen-hypervisor xen 2>/dev/null | grep -o "XSA-[0-9][0-9]*"
    :'
