#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The guest: all of it runs from memory; its disks (ext4, no partitions) are mounted at /data/vda, /data/vdb, ...; not a
# byte of a disk changes before the first job that writes to it.
# It does the jobs that the kernel command line gives it (donjon.job=JOB,JOB,...), one after the other, and those that
# the guest agent is told to execute (/init JOB ...); DISK is one of its disks (vda), without it all are meant:
#     write:NAME:MIB[:DISK]   fill folder NAME with MIB files of 1 MiB of random data, in place if they are there, and
#                             keep their SHA-256 beside it
#     zero:NAME:MIB[:DISK]    the same with zeros
#     remove:NAME[:DISK]      delete the folder, and give its blocks back to the host
#     verify                  compare every file of every disk with its SHA-256
#     writer:DISK[:MIB[:MS]]  from now on, write to a file of MIB (16) with a pause of MS (20) between operations, and
#                             acknowledge what is durable: ACK DISK N (writer.c)
#     database:DISK[:MS]      from now on, commit rows to an SQLite database: ACK database N
#     pause, resume           stop what writer and database do, and let them go on
#     check                   what writers and databases have left is compared with what they must have left: checked
#                             DISK (or database): N recovered, B bad; of a database also the size of its log
#     hook:fail               from now on, the guest agent's hook fails before file systems are frozen
#     hook:sleep:S            ... takes S seconds
#     hook:flush              ... puts all of the database's log into its file, and holds the database until the thaw
#     grow:DISK               the file system gets as big as its disk has become
#     poweroff                switch itself off
# With no poweroff it stays, and answers the power button and QEMU's guest agent.
# Each result is one line on the console (or of the agent's answer) that begins with DONJON-GUEST.
export PATH=/bin:/sbin:/usr/sbin:/usr/bin
COMMIT_PAUSE_MS=50
FLUSH_TRIES=200

say() { echo "DONJON-GUEST $*"; }

boot() {
    /bin/busybox --install -s /bin
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    mount -t devtmpfs dev /dev
    for module in /modules/*.ko; do insmod "$module"; done
    mount_disks
    start_services
    say "ready after $(cut -d ' ' -f 1 /proc/uptime) s"
    for job in $(sed -n 's/.*\bdonjon\.job=\([^ ]*\).*/\1/p' /proc/cmdline | tr , ' '); do do_job "$job"; done
    while :; do
        sleep 3600 &
        wait
    done
}

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
            qemu-ga -m virtio-serial -p "/dev/${port##*/}" -t /run -l /dev/null -F/etc/qemu/fsfreeze-hook &
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
    for disk in $(writable "$2"); do
        rm -r "$disk/$1" "$disk/$1.sha256" || say "FAILED to remove $1"
        sync
        fstrim "$disk"
    done
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

start_writer() { # DISK [MIB [MS]]
    disk=$(writable "$1")
    mkdir -p "$disk/writer"
    writer run "$1" "$disk/writer" "${2:-16}" "${3:-20}" </dev/null >/dev/console 2>&1 &
    say "writer on $1 started"
}

start_database() { # DISK [MS]
    disk=$(writable "$1")
    mkdir -p "$disk/database"
    { feed_database "${2:-$COMMIT_PAUSE_MS}" | sqlite3 -bail "$disk/database/rows"; } </dev/null >/dev/console 2>&1 &
    say "database on $1 started"
}

feed_database() { # MS: the statements of a session that never ends
    echo "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 200;"
    echo "CREATE TABLE IF NOT EXISTS rows (number INTEGER PRIMARY KEY, text TEXT);"
    while usleep "${1}000"; do
        if [ ! -e /run/hold ]; then
            echo "INSERT INTO rows SELECT ifnull(max(number), 0) + 1, printf('%0500d', ifnull(max(number), 0) + 1) FROM rows;"
            echo "SELECT 'DONJON-GUEST ACK database ' || max(number) FROM rows;"
        elif [ ! -e /run/flushed ]; then
            echo "PRAGMA wal_checkpoint(TRUNCATE);"
            echo ".shell touch /run/flushed"
            until [ -e /run/flushed ]; do usleep 20000; done
        fi
    done
}

hold_database() { # flushes it too; held as long as /run/hold is there
    touch /run/hold
    tries=0
    pidof sqlite3 >/dev/null || return 0
    until [ -e /run/flushed ]; do
        tries=$((tries + 1))
        [ "$tries" -lt "$FLUSH_TRIES" ] || return 1
        usleep 50000
    done
}

release_database() { rm -f /run/hold /run/flushed; }

check_all() {
    for disk in /data/*; do
        [ ! -e "$disk/writer/slots" ] || writer check "${disk##*/}" "$disk/writer"
        [ ! -e "$disk/database/rows" ] || check_database "$disk/database"
    done
}

check_database() { # FOLDER: looks at a copy, because SQLite would change the original
    log=$(stat -c %s "$1/rows-wal" 2>/dev/null || echo 0)
    cp -r "$1" /run/copy
    sqlite3 /run/copy/rows "SELECT 'DONJON-GUEST checked database: ' || count(*) || ' recovered, ' ||
        (ifnull(max(number), 0) - count(*) + ifnull(sum(text <> printf('%0500d', number)), 0)) || ' bad, $log bytes of log'
        FROM rows;" || say "FAILED check: cannot open the database"
    sound=$(sqlite3 /run/copy/rows 'PRAGMA integrity_check;')
    [ "$sound" = ok ] || say "FAILED check: the database is not sound: $sound"
    rm -r /run/copy
}

set_hook() { # KIND [S]: what /etc/qemu/fsfreeze-hook does at a freeze, and at the thaw
    case $1 in
    fail) echo '[ "$1" = thaw ] || exit 3' ;;
    sleep) echo "[ \"\$1\" = thaw ] || sleep $2" ;;
    flush) echo 'if [ "$1" = thaw ]; then /init release; else /init hold; fi' ;;
    esac >/run/hook
    say "hook $1 set"
}

grow() { # DISK
    disk=$(writable "$1")
    /usr/sbin/resize2fs "/dev/$1" >/dev/null 2>&1 || say "FAILED to grow $1"
    say "grew $1 to $(df -m "$disk" | tail -n 1 | awk '{print $2}') MiB"
}

do_job() { # JOB
    IFS=: read -r what name second third <<EOF
$1
$1
EOF
    case $what in
    write) fill_files /dev/urandom "$name" "$second" "$third" ;;
    zero) fill_files /dev/zero "$name" "$second" "$third" ;;
    remove) remove_files "$name" "$second" ;;
    verify) verify_files ;;
    writer) start_writer "$name" "$second" "$third" ;;
    database) start_database "$name" "$second" ;;
    pause) killall -STOP writer 2>/dev/null; hold_database && say paused ;;
    resume) killall -CONT writer 2>/dev/null; release_database; say resumed ;;
    hold) hold_database ;;
    release) release_database ;;
    check) check_all ;;
    hook) set_hook "$name" "$second" ;;
    grow) grow "$name" ;;
    poweroff) shutdown ;;
    *) say "FAILED $1: no such job" ;;
    esac
}

if [ $$ = 1 ]; then
    boot
else
    failed=0
    for job; do do_job "$job" || failed=1; done
    exit $failed
fi
