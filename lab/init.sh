#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The guest: all of it runs from memory; its disks (ext4, no partitions) are mounted at /data/vda, /data/vdb, ...; not a
# byte of a disk changes before the first job that writes to it.
# It does the jobs that the kernel command line gives it (donjon.job=JOB,JOB,...), one after the other; DISK is one of
# them (vda), without it all are meant:
#     write:NAME:MIB[:DISK]   fill folder NAME with MIB files of 1 MiB of random data, in place if they are there, and
#                             keep their SHA-256 beside it
#     zero:NAME:MIB[:DISK]    the same with zeros
#     remove:NAME[:DISK]      delete the folder, and give its blocks back to the host
#     verify                  compare every file of every disk with its SHA-256
#     poweroff                switch itself off
# With no poweroff it stays, and answers the power button and QEMU's guest agent.
# Each result is one line on the console that begins with DONJON-GUEST.
export PATH=/bin:/sbin:/usr/sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod "$module"; done

say() { echo "DONJON-GUEST $*"; }

mount_disks() {
    for device in /sys/block/vd*; do
        name=${device##*/}
        mkdir -p "/data/$name"
        mount -t ext4 -o ro,discard "/dev/$name" "/data/$name" 2>/dev/null || rmdir "/data/$name"
    done
}

start_services() {
    acpid -d -l /dev/null >/dev/null 2>&1 &
    for port in /sys/class/virtio-ports/*; do
        if [ "$(cat "$port/name" 2>/dev/null)" = org.qemu.guest_agent.0 ]; then
            qemu-ga -m virtio-serial -p "/dev/${port##*/}" -t /run -l /dev/null &
        fi
    done
}

writable() { # [DISK]: the folders of the disks, which can be written to from now on
    for disk in /data/${1:-*}; do
        mount -o remount,rw "$disk" && echo "$disk"
    done
}

fill_files() { # SOURCE NAME MIB [DISK]
    disks=$(writable "$4")
    for disk in $disks; do
        mkdir -p "$disk/$2"
        for number in $(seq -w 1 "$3"); do
            dd if="$1" of="$disk/$2/$number" bs=1M count=1 conv=notrunc 2>/dev/null || say "FAILED to write $2"
        done
        (cd "$disk/$2" && sha256sum -- *) >"$disk/$2.sha256"
    done
    sync
    say "wrote $2: $(for disk in $disks; do cat "$disk/$2.sha256"; done | wc -l) files"
}

remove_files() { # NAME [DISK]
    for disk in $(writable "$2"); do rm -r "$disk/$1" "$disk/$1.sha256" || say "FAILED to remove $1"; done
    sync
    say "removed $1"
}

verify_files() {
    wanted=$(cat /data/*/*.sha256 | wc -l)
    found=$(for list in /data/*/*.sha256; do (cd "${list%.sha256}" && sha256sum -c "$list"); done 2>/dev/null | grep -c ': OK$')
    if [ "$wanted" -gt 0 ] && [ "$found" = "$wanted" ]; then
        say "verified $found files, digest $(cat /data/*/*.sha256 | sha256sum | cut -d ' ' -f 1)"
    else
        say "FAILED verify: $found of $wanted files are as they were written"
    fi
}

mount_disks
start_services
say "ready after $(cut -d ' ' -f 1 /proc/uptime) s"
for job in $(sed -n 's/.*\bdonjon\.job=\([^ ]*\).*/\1/p' /proc/cmdline | tr , ' '); do
    IFS=: read -r what name mib disk <<EOF
$job
EOF
    case $what in
    write) fill_files /dev/urandom "$name" "$mib" "$disk" ;;
    zero) fill_files /dev/zero "$name" "$mib" "$disk" ;;
    remove) remove_files "$name" "$mib" ;;
    verify) verify_files ;;
    poweroff) shutdown ;;
    *) say "FAILED $job: no such job" ;;
    esac
done
while :; do
    sleep 3600 &
    wait
done
