# SPDX-License-Identifier: Apache-2.0
# The collector's tools: what a probe may call. POSIX sh; writes nothing outside a folder of its own, which goes with it.
#
# Where a tar of `bundle` is read: bundle_file.py. It holds
#   manifest.json            who collected, when
#   cmd/NAME.{out,err,rc}    a probe
#   root/PATH                the text of a file, secrets blanked
#   asked, refused           paths and patterns asked for; path and reason, for each not brought; ended by NUL
#   look/N.{asked,found,err,rc,how}  depth and paths; what find or stat said of them
#   end                      the last, so that a cut bundle is known
PATH=$PATH:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
umask 077
exec </dev/null

TOTAL_S=120               # of all probes together
TEXT_BYTES=1048576        # of one file
OUTPUT_BYTES=4194304      # of one probe, stdout and stderr each
SCRATCH_BLOCKS=131072     # of 512 bytes: what a probe may write into a file before it is stopped
newline='
'
plain_ifs=$IFS
number=0
looks=0
probes=

work=
for base in /run /dev/shm "${TMPDIR:-/tmp}" /tmp; do
    [ -d "$base" ] && [ -w "$base" ] || continue
    work=$(mktemp -d "$base/donjon.XXXXXX" 2>/dev/null) && break
    work=$base/donjon.$$
    mkdir -m 700 "$work" 2>/dev/null && break
    work=
done
[ -n "$work" ] || { echo "donjon: there is no folder for temporary files" >&2; exit 3; }

watcher=
running=
cleanup() {
    [ -z "$watcher" ] || kill "$watcher" 2>/dev/null
    [ -z "$running" ] || stop TERM $!
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
trap : USR1

raw=$work/raw
bundle=$work/bundle
mkdir "$raw" "$bundle" "$bundle/cmd" "$bundle/look" "$bundle/root" || exit 3
: >"$bundle/asked"
: >"$bundle/refused"
: >"$work/now"

if find / -maxdepth 0 -printf '' >/dev/null 2>&1; then how=find
elif stat -c %f / >/dev/null 2>&1; then how=stat
else how=none; fi

family() { # PID: it and all it started
    echo "$1"
    cat /proc/[0-9]*/stat 2>/dev/null | awk -v top="$1" '
        { pid = $1; sub(/^.*[)] . /, ""); parent[pid] = $1 }
        END { for (pid in parent) { one = parent[pid]; while (one > 1 && one != top) one = parent[one]; if (one == top) print pid } }'
}

stop() { # SIGNAL PID: it and all it started
    kill -s "$1" $(family "$2") 2>/dev/null
}

# Beside everything: stops what takes too long, tells the collector to go on without what cannot be stopped (a dead
# network file system), and cleans up if the collector is killed.
watch() {
    last=
    elapsed=0
    while sleep 1; do
        elapsed=$((elapsed + 1))
        [ "$elapsed" -lt "$TOTAL_S" ] || : >"$work/over"
        job=
        read -r job limit child <"$work/now"
        if ! kill -0 $$ 2>/dev/null; then
            [ -z "$job" ] || stop KILL "$child"
            rm -rf "$work"
            exit
        fi
        [ -n "$job" ] || continue
        [ "$job" = "$last" ] || { last=$job; age=0; }
        age=$((age + 1))
        [ "$age" -gt "$limit" ] || continue
        : >"$work/late.$job"
        case $((age - limit)) in
            1) stop TERM "$child" ;;
            2) stop KILL "$child" ;;
            *) kill -s USR1 $$ ;;
        esac
    done
}
watch </dev/null >/dev/null 2>&1 &
watcher=$!

guard() { # SECONDS COMMAND...: its exit code, or 124 if it had to be stopped
    [ ! -e "$work/over" ] || return 124
    number=$((number + 1))
    seconds=$1
    shift
    running=yes
    (
        trap - EXIT
        ulimit -f "$SCRATCH_BLOCKS" 2>/dev/null
        "$@"
    ) &
    child=$!
    echo "$number $seconds $child" >"$work/now"
    wait "$child" 2>/dev/null
    rc=$?
    running=
    : >"$work/now"
    [ ! -e "$work/late.$number" ] || rc=124
    return "$rc"
}

probe() { # NAME SECONDS COMMAND [ARG...]
    name=$1
    limit=$2
    shift 2
    probes="$probes,\"$name\""
    if command -v "$1" >/dev/null 2>&1; then
        [ "$1" = alone ] || set -- exec "$@"
        guard "$limit" "$@" >"$raw/$name.out" 2>"$raw/$name.err"
        echo $? >"$bundle/cmd/$name.rc"
    else
        echo "there is no $1" >"$raw/$name.err"
        : >"$raw/$name.out"
        echo 127 >"$bundle/cmd/$name.rc"
    fi
}

alone() { # TEXT: without arguments, as `sh -c` runs it
    words=$1
    shift
    eval "$words"
}

shell() { # NAME SECONDS TEXT: in a subshell, which is cheaper than a shell
    probe "$1" "$2" alone "$3"
}

refuse() { # PATH REASON
    printf '%s\0%s\0' "$1" "$2" >>"$bundle/refused"
}

# Redacted copies of files below a folder, at their own paths there; 9: one of them is larger than that many bytes.
redact() { # FOLDER BYTES FILE...
    folder=$1
    bytes=$2
    shift 2
    for file; do
        place=$folder/${file%/*}
        [ "$file" = "${file##*/}" ] || [ -d "$place" ] || mkdir -p "$place" || return 1
    done
    awk -v folder="$folder/" -v bytes="$bytes" "$redactor" "$@"
}

# Is there a folder on the way to what a pattern means that we may not enter, or list? Then absence says nothing.
barred() { # PATTERN
    way=$1
    while folder=${way%/*} && [ -n "$folder" ] && [ "$folder" != "$way" ]; do
        part=${way##*/}
        IFS=
        for one in $folder; do
            [ -d "$one" ] || continue
            [ -x "$one" ] || { IFS=$plain_ifs; return 0; }
            case $part in
                *[*?[]*) [ -r "$one" ] || { IFS=$plain_ifs; return 0; } ;;
            esac
        done
        IFS=$plain_ifs
        way=$folder
    done
    return 1
}

# May its text go? Says why not.
wanted() { # FILE
    [ -e "$1" ] && [ ! -d "$1" ] || return 1
    if [ ! -f "$1" ]; then
        refuse "$1" "not a file"
    elif [ ! -r "$1" ]; then
        refuse "$1" "permission denied"
    else
        case $1 in
            *.key | *_key | */private/* | *.p12 | *.pfx | *.jks | *.keytab | *.keyring | *.kdbx | *.base64 | */*shadow | */*shadow-)
                refuse "$1" "secrets stay on the host" ;;
            *) return 0 ;;
        esac
    fi
    return 1
}

copy() { # PATH-OR-PATTERN...
    for pattern; do
        if barred "$pattern"; then
            refuse "$pattern" "permission denied"
        else
            printf '%s\0' "$pattern" >>"$bundle/asked"
        fi
    done
    IFS=
    set -- $@
    IFS=$plain_ifs
    left=$#
    while [ "$left" -gt 0 ]; do
        file=$1
        shift
        ! wanted "$file" || set -- "$@" "$file"
        left=$((left - 1))
    done
    [ $# -gt 0 ] || return 0
    guard 5 redact "$bundle/root" "$TEXT_BYTES" "$@" 2>/dev/null && return 0
    for file; do
        guard 2 redact "$bundle/root" "$TEXT_BYTES" "$file" 2>/dev/null && continue
        case $? in
            9) refuse "$file" "larger than $TEXT_BYTES bytes" ;;
            124) refuse "$file" "timed out" ;;
            *) refuse "$file" "cannot be read" ;;
        esac
        rm -f "$bundle/root$file"
    done
}

seen() { # DEPTH PATH...
    depth=$1
    shift
    if [ "$how" = find ]; then
        exec find "$@" -maxdepth "$depth" -printf '%y %m %U %G %u %g %s %T@\0%p\0%l\0'
    fi
    # A line for each, which a name with a newline cannot have; then a line for each link's target.
    find "$@" -maxdepth "$depth" -name "*$newline*" -prune -exec sh -c '
        echo "find: ${1%%"$2"*}: a newline in a name" >&2' sh {} "$newline" \; \
        -o -exec stat -c '%f %u %g %U %G %s %Y %n' {} \; || bad=1
    echo
    find "$@" -maxdepth "$depth" -name "*$newline*" -prune -o -type l -exec sh -c '
        printf "%s\n" "$1" && readlink "$1"' sh {} \; 2>/dev/null
    return "${bad:-0}"
}

# Paths are kept by depth and looked at together in the end: a process for each would cost most of all.
look() { # [-d DEPTH] PATH...
    depth=0
    if [ "$1" = -d ]; then
        depth=$2
        shift 2
    fi
    IFS=
    for path in $@; do
        case $path in
            *"$newline"*) refuse "$path" "a newline in its name" ;;
            *) printf '%s\n' "$path" >>"$work/look.$depth" ;;
        esac
    done
    IFS=$plain_ifs
}

looked() { # DEPTH SECONDS PATH...: 0 if it could be seen what is there
    looks=$((looks + 1))
    place=$bundle/look/$looks
    depth=$1
    seconds=$2
    shift 2
    printf '%s\0' "$depth" "$@" >"$place.asked"
    echo "$how" >"$place.how"
    if [ "$how" = none ]; then
        echo 127 >"$place.rc"
        return
    fi
    guard "$seconds" seen "$depth" "$@" >"$place.found" 2>"$place.err"
    rc=$?
    echo "$rc" >"$place.rc"
    [ "$rc" -le 1 ]
}

look_now() {
    for list in "$work"/look.*; do
        [ -e "$list" ] || continue
        depth=${list##*.}
        IFS=$newline
        set -f
        set -- $(sort -u "$list")
        set +f
        IFS=$plain_ifs
        looked "$depth" 10 "$@" && continue
        rm -f "$bundle/look/$looks".*
        for path; do
            looked "${list##*.}" 2 "$path"
        done
    done
}
