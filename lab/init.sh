#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The guest: all of it runs from memory; its disks (ext4, no partitions) are mounted at /data/vda, /data/vdb, ...
# It does the jobs that the kernel command line gives it (donjon.job=JOB,JOB,...), one after the other:
#     write:NAME:MIB   fill folder NAME of each disk with MIB files of 1 MiB of random data, in place if they are there,
#                      and keep their SHA-256 beside it
#     remove:NAME      delete the folder
#     verify           compare every file of every disk with its SHA-256
#     poweroff         switch itself off
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
        mount -t ext4 -o discard "/dev/$name" "/data/$name" 2>/dev/null || rmdir "/data/$name"
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

write_files() { # NAME MIB
    for disk in /data/*; do
        mkdir -p "$disk/$1"
        for number in $(seq -w 1 "$2"); do
            dd if=/dev/urandom of="$disk/$1/$number" bs=1M count=1 conv=notrunc 2>/dev/null || say "FAILED write $1"
        done
        (cd "$disk/$1" && sha256sum -- *) >"$disk/$1.sha256"
    done
    sync
    say "wrote $1: $(cat /data/*/"$1.sha256" | wc -l) files"
}

remove_files() { # NAME
    for disk in /data/*; do rm -r "$disk/$1" "$disk/$1.sha256" || say "FAILED remove $1"; done
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
    arguments=${job#*:}
    case $job in
    write:*) write_files "${arguments%:*}" "${arguments##*:}" ;;
    remove:*) remove_files "$arguments" ;;
    verify) verify_files ;;
    poweroff) shutdown ;;
    *) say "FAILED $job: no such job" ;;
    esac
done
while :; do
    sleep 3600 &
    wait
done
