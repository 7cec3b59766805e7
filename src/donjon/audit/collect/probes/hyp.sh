# SPDX-License-Identifier: Apache-2.0
# Kernel, CPU and hypervisor.

shell cpu-vulnerabilities 5 '[ -d /sys/devices/system/cpu/vulnerabilities ] || exit 127
    cd /sys/devices/system/cpu/vulnerabilities && grep -H . *'
shell cpu 5 'awk "/^\$/ { exit } { print }" /proc/cpuinfo'
shell dmi 5 'cd /sys/class/dmi/id 2>/dev/null || exit 127; grep -Hs . sys_vendor product_name; :'
# "kvm_intel.nested=Y"
shell module-parameters 5 '
    for name in kvm_intel/parameters/nested kvm_amd/parameters/nested vfio_iommu_type1/parameters/allow_unsafe_interrupts; do
        [ ! -r "/sys/module/$name" ] || echo "$(echo "$name" | sed s,/parameters/,.,)=$(cat "/sys/module/$name")"
    done'
# "selinux 1", "apparmor Y", "profiles NUMBER-IN-ENFORCE", "configured WORD"
shell mandatory-access 5 '
    [ ! -e /sys/fs/selinux/enforce ] || echo "selinux $(cat /sys/fs/selinux/enforce)"
    [ ! -e /selinux/enforce ] || echo "selinux $(cat /selinux/enforce)"
    apparmor=/sys/module/apparmor/parameters/enabled
    [ ! -e "$apparmor" ] || echo "apparmor $(cat "$apparmor")"
    profiles=/sys/kernel/security/apparmor/profiles
    if [ -e "$profiles" ]; then
        text=$(cat "$profiles") || exit 1
        echo "profiles $(echo "$text" | grep -c "(enforce)\$")"
    fi
    sed -n "s/^SELINUX=/configured /p" /etc/selinux/config 2>/dev/null
    :'
shell iommu 5 'ls /sys/class/iommu 2>/dev/null; :'
shell iommu-messages 5 'dmesg >/dev/null 2>&1 || exit 1
    dmesg | grep -E "Linux version|DMAR|AMD-Vi|[Ii]nterrupt remapping|IRQ remapping"; :'
# Of each device model: pid, user ids, capabilities, seccomp.
shell device-models 5 '
    cat /proc/[0-9]*/status 2>/dev/null | awk "
        function done() { if (qemu) print line }
        /^Name:/ { done(); line = \"name=\" \$2; qemu = \$2 ~ /^(qemu|kvm\$)/; count++ }
        /^Pid:/ { line = line \" pid=\" \$2 }
        /^Uid:/ { line = line \" uid=\" \$3 }
        /^CapEff:/ { line = line \" capabilities=\" \$2 }
        /^Seccomp:/ { line = line \" seccomp=\" \$2 }
        END { done(); print \"processes \" count }"'
look /dev/kvm /dev/vhost-net /dev/vhost-vsock /dev/vhost-scsi /dev/mem /dev/sev /proc/xen/privcmd
look -d 1 /dev/vfio /dev/xen

shell xen-info 5 'xl info 2>/dev/null || xm info'
shell xen-messages 5 'xl dmesg 2>/dev/null || xm dmesg'
shell xen-build 5 'xenhypfs cat /buildinfo/config'
probe xen-flask 5 xl getenforce
copy /etc/xen/xl.conf
