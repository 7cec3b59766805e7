# SPDX-License-Identifier: Apache-2.0
# Which host this is.
probe uname 5 uname -a
probe machine 5 uname -m
probe cmdline 5 cat /proc/cmdline
shell machine-id 5 'cat /etc/machine-id 2>/dev/null || cat /var/lib/dbus/machine-id'
shell hypervisors 5 '
    for daemon in libvirtd virtqemud; do
        command -v "$daemon" >/dev/null 2>&1 || [ -x "/usr/sbin/$daemon" ] && echo libvirt-qemu && break
    done
    [ -e /proc/xen/capabilities ] && command -v xl >/dev/null 2>&1 && echo xl
    [ -e /etc/ovs-agent ] || [ -e /etc/ovs-release ] && echo oracle-vm
    :'
copy /etc/os-release /etc/ovs-release /etc/oracle-release /etc/redhat-release
