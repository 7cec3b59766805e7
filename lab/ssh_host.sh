#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Boots a host in fresh namespaces: FOLDER keeps its /etc and /var/lib from boot to boot; /run and the kernel's firewall
# are gone after each. As process 1 it ends as sshd: when that is killed, so is everything on the host.
set -e
folder=$1
mkdir -p "$folder/lib" "$folder/etc"
if [ ! -e "$folder/etc/passwd" ]; then
    cp -a /etc/. "$folder/etc"
    rm -rf "$folder/etc/ssh"
    cp -a "$folder/template/." "$folder/etc"
fi
mount --bind "$folder/etc" /etc
mount --bind "$folder/lib" /var/lib
mount -t tmpfs run /run
mkdir -p /run/sshd
hostname lab
ip link set lo up
echo booted >"$folder/booted"
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip address add "$2" dev eth0
ip link set eth0 up
sh /etc/rc.local
exec /usr/sbin/sshd -D -e -f /etc/ssh/sshd_config
