# SPDX-License-Identifier: Apache-2.0
# Networks of guests: libvirt's, and ports of Open vSwitch. Links and bridges: net.sh.
shell libvirt-networks 10 '
    if [ -z "$LIBVIRT_DEFAULT_URI" ]; then
        LIBVIRT_DEFAULT_URI=qemu:///system
        [ -e /proc/xen/capabilities ] && LIBVIRT_DEFAULT_URI=xen:///system
        export LIBVIRT_DEFAULT_URI
    fi
    uuids=$(virsh -r net-list --all --uuid) || exit
    batch=$(printf "%s\n" "$uuids" | awk "NF { printf \"echo @network; net-dumpxml %s; \", \$1 }")
    virsh -r "${batch}echo @end"'
probe openvswitch-ports 5 ovs-vsctl --timeout=3 --format=json --columns=name,tag,trunks,vlan_mode list Port
