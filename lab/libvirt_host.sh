#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# libvirt_host.sh system|session FOLDER: a libvirt daemon of its own, with all it keeps below FOLDER, until standard
# input ends; then it and its guests are gone, also when whoever held the other end was killed.
#
# system: first process of new mount, process and network namespaces; the host's libvirt, its D-Bus and its control
# groups are not to be seen in there, and the kernel ends everything in there when this script ends.
# session: an ordinary user's daemon, with XDG_RUNTIME_DIR and the like in FOLDER.
set -eu
mode=$1 folder=$2

if [ "$mode" = system ]; then
    mount -t tmpfs tmpfs /run
    mkdir /run/libvirt
    mount --bind "$folder/run" /run/libvirt
    mount --bind "$folder/etc" /etc/libvirt
    for place in lib cache log; do mount --bind "$folder/$place" /var/$place/libvirt; done
    umount -R -l /sys/fs/cgroup 2>/dev/null || true
    state=/run/libvirt
else
    state=$XDG_RUNTIME_DIR/libvirt
fi

stop() {
    trap - TERM
    for guest in "$state"/qemu/run/*.pid "$state"/qemu/*.pid; do
        case $guest in */driver.pid | *'*'*) ;; *) kill -KILL "$(cat "$guest")" || true ;; esac
    done
    kill -TERM "$daemon" || true
    wait "$daemon" || true
    exit 0
}

libvirtd --pid-file "$folder/libvirtd.pid" </dev/null &
daemon=$!
trap stop TERM
exec 3<&0
{
    cat <&3 >/dev/null
    kill -TERM $$
} &
exec 3<&- </dev/null
# Also reaps the processes that the daemon leaves behind (QEMU, when it is asked what it can do), which it waits for.
wait "$daemon"
