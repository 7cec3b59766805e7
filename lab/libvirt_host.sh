#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# libvirt_host.sh system|session FOLDER [NAME]: a libvirt daemon of its own, with all it keeps below FOLDER, until
# standard input ends; then it and its guests are gone, also when whoever held the other end was killed.
# Standard input says, a word a line: "kill" (the daemon, with SIGKILL; guests go on), "start" (another one).
#
# system: first process of new mount, process, network and host name namespaces; the host's libvirt, its D-Bus and its
# control groups are not to be seen in there, and the kernel ends everything in there when this script ends. With NAME
# the host is called so and listens on TCP with TLS.
# session: an ordinary user's daemon, with XDG_RUNTIME_DIR and the like in FOLDER.
set -eu
mode=$1 folder=$2 listen=${3:+--listen}

if [ "$mode" = system ]; then
    mount -t tmpfs tmpfs /run
    mkdir /run/libvirt
    mount --bind "$folder/run" /run/libvirt
    mount --bind "$folder/etc" /etc/libvirt
    for place in lib cache log; do mount --bind "$folder/$place" /var/$place/libvirt; done
    umount -R -l /sys/fs/cgroup 2>/dev/null || true
    if [ -c /dev/kvm ]; then
        # libvirt asks QEMU again and again what it can do while root may use KVM and QEMU's user may not.
        mknod -m 666 /run/kvm c 10 232
        mount --bind /run/kvm /dev/kvm
    fi
    if [ -n "$listen" ]; then
        hostname "$3"
        mount --bind "$folder/hosts" /etc/hosts
    fi
    state=/run/libvirt
else
    state=$XDG_RUNTIME_DIR/libvirt
fi

start() {
    libvirtd $listen --pid-file "$folder/libvirtd.pid" </dev/null &
    daemon=$!
    killed=
}

stop() {
    trap - TERM
    for guest in "$state"/qemu/run/*.pid "$state"/qemu/*.pid; do
        case $guest in */driver.pid | *'*'*) ;; *) kill -KILL "$(cat "$guest")" || true ;; esac
    done
    kill -TERM "$daemon" || true
    wait "$daemon" || true
    kill "$idle"
    exit 0
}

start
sleep infinity &
idle=$!
trap stop TERM
trap 'killed=yes; kill -KILL "$daemon"' USR1
trap start USR2
exec 3<&0
{
    while read -r word; do
        case $word in
        kill) kill -USR1 $$ ;;
        start) kill -USR2 $$ ;;
        esac
    done <&3
    kill -TERM $$
} &
exec 3<&- </dev/null
# Also reaps the processes that the daemon leaves behind (QEMU, when it is asked what it can do), which it waits for.
while [ -n "$killed" ] || kill -0 "$daemon" 2>/dev/null; do
    if [ -n "$killed" ]; then wait "$idle" || true; else wait "$daemon" || true; fi
done
stop
