# SPDX-License-Identifier: Apache-2.0
# Disk images: which there are, who may read them, what their headers refer to; and the storage they lie on.

# Prints paths, one a line: of images, kernels and firmware that VMs name, of all in the usual folders and in libvirt's
# pools, and of the folders themselves.
donjon_image_paths='
    set --
    for file in /etc/libvirt/qemu/*.xml /run/libvirt/qemu/*.xml /etc/libvirt/storage/*.xml /etc/xen/*.cfg \
        /etc/xen/auto/* /OVS/Repositories/*/VirtualMachines/*/vm.cfg; do
        [ -f "$file" ] && set -- "$@" "$file"
    done
    {
        if [ $# -gt 0 ]; then cat "$@"; fi
        if [ -e /proc/xen/capabilities ] && command -v xl >/dev/null 2>&1; then xl list -l; fi
    } | awk "
        function show(path) { gsub(/&amp;/, \"\\\\&\", path); gsub(/&apos;/, \"\\047\", path); if (!seen[path]++) print path }
        /<(source|nvram|kernel|initrd|dtb|loader|path)[ >]/ {
            text = \$0
            while (match(text, /(file|dev|dir)=[\\047\"]\\/[^\\047\"]+/)) {
                path = substr(text, RSTART, RLENGTH)
                sub(/^[a-z]+=./, \"\", path)
                show(path)
                text = substr(text, RSTART + RLENGTH)
            }
            if (match(\$0, />\\/[^<]+</)) show(substr(\$0, RSTART + 1, RLENGTH - 2))
            next
        }
        /^[ \\t]*</ { next }
        { text = \$0; while (match(text, /\\/[^\\047\", ]+/)) { show(substr(text, RSTART, RLENGTH)); text = substr(text, RSTART + RLENGTH) } }
    " | head -n 2000 | while IFS= read -r path; do
        [ -e "$path" ] && printf "%s\n%s\n" "$path" "${path%/*}"
    done
    for path in /var/lib/libvirt/images /var/lib/libvirt/images/* /var/lib/xen/images /var/lib/xen/images/* \
        /var/lib/libvirt/qemu/nvram /var/lib/libvirt/qemu/nvram/* /var/lib/libvirt/swtpm/* \
        /OVS/Repositories/*/VirtualDisks /OVS/Repositories/*/VirtualDisks/* /OVS/Repositories/*/Templates/*/*; do
        [ -e "$path" ] && printf "%s\n" "$path"
    done
    for pool in /etc/libvirt/storage/*.xml; do
        [ -f "$pool" ] || continue
        folder=$(sed -n "s:^ *<path>\(/.*\)</path>:\1:p" "$pool")
        for path in "$folder" "$folder"/*; do
            case $path in /dev | /dev/* | "" | /\*) continue ;; esac
            [ -e "$path" ] && printf "%s\n" "$path"
        done
    done'
export donjon_image_paths

# "TYPE-AND-MODE UID GID SIZE DEVICE:INODE MAJOR:MINOR USER GROUP PATH" of each, links followed; mode and numbers in hex
# where stat(1) prints them so.
shell images 10 '
    paths=$(eval "$donjon_image_paths" | sort -u)
    IFS="
"
    set -f
    set -- $paths
    [ $# -gt 0 ] && stat -L -c "%f %u %g %s %d:%i %t:%T %U %G %n" -- "$@"
    echo @end'

# The first 2048 bytes of each that has a header, the first 16 of others, in hex.
shell image-headers 15 '
    eval "$donjon_image_paths" | sort -u | {
        count=0
        while IFS= read -r path; do
            [ -f "$path" ] || [ -b "$path" ] || continue
            case $path in /dev/sr* | /dev/cdrom*) continue ;; esac
            count=$((count + 1))
            [ $count -le 500 ] || { echo "@more"; break; }
            printf "@image %s\n" "$path"
            od -A n -v -t x1 -N 2048 "$path"
        done
        echo @end
    } | awk "
        /^@/ { print; first = 1; next }
        first { keep = /^ (51 46 49 fb|4b 44 4d 56|23 20 44 69 73 6b|63 6f 6e 65 63 74 69 78|51 45 44 00)/ }
        first || keep { first = 0; gsub(/ /, \"\"); print }"'

copy '/etc/libvirt/storage/*.xml' '/etc/libvirt/secrets/*.xml'
look -d 1 /etc/libvirt/secrets /var/lib/libvirt/secrets

# What the host itself makes of disks: mounts, loops, device mapper, LVM, network block devices.
probe mounts 5 cat /proc/self/mountinfo
shell loops 5 '
    for file in /sys/block/loop*/loop/backing_file; do
        [ -f "$file" ] || continue
        number=
        read -r number < "${file%/loop/*}/dev"
        read -r backing < "$file" && device=${file#/sys/block/} &&
            printf "/dev/%s\t%s\t%s\n" "${device%%/*}" "$number" "$backing"
    done
    :'
shell mapped 5 '
    for device in /sys/block/dm-*; do
        [ -e "$device/dm/name" ] || continue
        name= uuid= below= number=
        read -r number < "$device/dev"
        read -r name < "$device/dm/name"
        read -r uuid < "$device/dm/uuid"
        for slave in "$device"/slaves/*/dev; do
            [ -f "$slave" ] && read -r one < "$slave" && below="$below $one"
        done
        printf "%s\t%s\t%s\t%s\t%s\n" "/dev/${device##*/}" "$number" "$name" "$uuid" "$below"
    done
    :'
shell network-block-devices 5 '
    for file in /sys/block/nbd*/pid; do
        [ -f "$file" ] && read -r pid < "$file" && file=${file%/pid} && printf "/dev/%s\t%s\n" "${file##*/}" "$pid"
    done
    :'
# Hints and locks would be written below /run; LVM of old hosts knows no hints.
shell physical-volumes 10 '
    command -v pvs >/dev/null 2>&1 || exit 127
    pvs --readonly --nohints --noheadings --separator "|" -o pv_name,vg_name 2>/dev/null ||
        pvs --readonly --noheadings --separator "|" -o pv_name,vg_name'
shell logical-volumes 10 '
    command -v lvs >/dev/null 2>&1 || exit 127
    lvs --readonly --nohints --noheadings --separator "|" -o vg_name,lv_name,lv_attr 2>/dev/null ||
        lvs --readonly --noheadings --separator "|" -o vg_name,lv_name,lv_attr'
look -d 1 /etc/lvm/devices
shell lvm-settings 5 '
    lvmconfig --type full devices 2>/dev/null || lvm dumpconfig devices 2>/dev/null || {
        command -v pvs >/dev/null 2>&1 || exit 127
        exit 1
    }'

# Network storage: what is served, and how targets are logged in to.
copy /etc/exports '/etc/exports.d/*.exports' /etc/iscsi/iscsid.conf
shell iscsi-nodes 5 '
    for folder in /etc/iscsi/nodes /var/lib/iscsi/nodes; do
        [ ! -d "$folder" ] || { [ -r "$folder" ] && [ -x "$folder" ]; } || { echo "cannot look into $folder" >&2; exit 1; }
    done
    for file in /etc/iscsi/nodes/*/*/* /var/lib/iscsi/nodes/*/*/*; do
        [ -f "$file" ] && printf "@node %s\n" "$file" && sed -n "/^node.session.auth.authmethod/p; /^node.conn\[0\].address/p" "$file"
    done
    echo @end'
