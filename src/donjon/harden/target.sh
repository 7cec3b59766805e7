# SPDX-License-Identifier: Apache-2.0
# What a plan does on a host. POSIX sh; of programs only coreutils' (or busybox's) and sed, and setsid or systemd-run.
# In front of this stand ID, HOST, GUARDED, LAST (step of apply), TOTAL (with those of confirm), ACTIVATIONS and TESTS,
# behind it the pieces of this plan: step_N (calls file_step, access_step or command_step), content_N, state_N, do_N,
# undo_N, activate_N, test_N. All that is written before something is done is on disk before it is done.
#
# The journal, $JOURNAL: plan.sh (this), status, apply (process), session (who applied), deadman (process), decision
# (made once: a link to "confirm PID" or "revert PID"), and per step N/: what was before; armed, while there is something
# to undo, and then undone. Beside the journals, pending: the plan that is not decided yet.
# Exit codes: 0 done, 10 refused and nothing done, 11 failed and undone, 12 failed and not undone, 13 decided otherwise.
ROOT=${DONJON_ROOT-}
PATH=$PATH:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export ROOT PATH LC_ALL
umask 077
BASE=$ROOT/var/lib/donjon/harden
JOURNAL=$BASE/$ID
LONGEST_APPLY_S=600
MARK='# donjon: changes that nobody confirmed are undone'

say() { printf '%s\n' "$*"; }
complain() { printf '%s\n' "$*" >&2; }
refuse() { complain "$*"; exit 10; }

# ---- looking

digest() { # of what is on standard input; RHEL 5 may have no sha256sum
    if command -v sha256sum >/dev/null 2>&1; then sha256sum; else openssl dgst -sha256 | sed 's/.*= *//'; fi | cut -c 1-64
}

file_state() { # PATH: digest, "absent", or what it is instead of a file
    if [ -L "$1" ]; then echo link
    elif ! way_is_safe "$1"; then echo "others can replace it"
    elif [ -f "$1" ]; then digest <"$1"
    elif [ -e "$1" ]; then echo "not a file"
    else echo absent
    fi
}

access_state() { # PATH: "0600 UID GID", or why it cannot be changed safely
    if [ -L "$1" ]; then echo link
    elif [ ! -e "$1" ]; then echo absent
    elif ! way_is_safe "$1"; then echo "others can replace it"
    else stat -c '%a %u %g' "$1"
    fi
}

way_is_safe() { # PATH, there or not: nobody but root (or us) can put something else there between a look and a change
    above=$1
    while above=${above%/*} && [ "${#above}" -gt "${#ROOT}" ]; do
        [ ! -L "$above" ] || return 1
        [ -e "$above" ] || continue
        # shellcheck disable=SC2046
        set -- $(stat -c '%a %u' "$above")
        [ "$2" = 0 ] || [ "$2" = "$(id -u)" ] || return 1
        case $1 in *[2367] | *[2367]?) return 1 ;; esac # a group's bits are those of an access list, too
    done
}

host_id() {
    id=$(cat "$ROOT/etc/machine-id" 2>/dev/null || cat "$ROOT/var/lib/dbus/machine-id" 2>/dev/null)
    printf %s "${id:-$(uname -n)}" | digest | cut -c 1-16
}

session() { # the ssh connection we are in (sudo hides it from us, but not from /proc), or which program on the host
    process=$$
    while [ "${process:-1}" -gt 1 ]; do
        found=$(tr '\0' '\n' 2>/dev/null <"/proc/$process/environ" | sed -n 's/^SSH_CONNECTION=//p')
        if [ -n "$found" ]; then say "$found"; return; fi
        process=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$process/status")
    done 2>/dev/null
    say "on the host ${DONJON_CALLER-}"
}

runs() { # PID: is there, with a plan's program: neither a zombie, nor somebody who was given the same number later
    grep -q '/harden/[0-9a-f]*/plan\.sh' "/proc/$1/cmdline" 2>/dev/null
}

# ---- the journal

durable() { sync "$@" 2>/dev/null || sync; }
recorded() { cat "$JOURNAL/$1" 2>/dev/null; }

record() { # NAME TEXT
    say "$2" >"$JOURNAL/.$1.$$" && durable "$JOURNAL/.$1.$$" && mv -f "$JOURNAL/.$1.$$" "$JOURNAL/$1" && durable "$JOURNAL"
}

decide() { # confirm or revert: succeeds for the one who decided, exactly once
    ln -s "$1 $$" "$JOURNAL/decision" 2>/dev/null || return 1
    durable "$JOURNAL"
}

decision() { readlink "$JOURNAL/decision"; } # a link cannot be half written, and finds room on a disk that is full

# ---- kinds of steps; each knows: check (is it as when it was planned), finished, save, do, undo, kept

file_step() { # VERB N PATH BEFORE AFTER MODE: AFTER is the digest of what content_N prints
    path=$ROOT$3 old=$JOURNAL/$2/old new=$ROOT$3.donjon-new folders=$JOURNAL/$2/folders
    case $1 in
    check) [ "$(file_state "$path")" = "$4" ] || drifted "$3" ;;
    finished) [ "$(file_state "$path")" = "$5" ] ;;
    save) if [ "$4" = absent ]; then missing_above "$path" >"$folders"; else keep "$path" "$old" && [ "$(digest <"$old")" = "$4" ]; fi ;;
    do)
        if [ "$4" = absent ]; then
            (umask 022 && mkdir -p "${path%/*}") && "content_$2" /dev/null >"$new" && chmod "$6" "$new"
        else
            keep "$old" "$new" && "content_$2" "$old" >"$new"
        fi && [ "$(digest <"$new")" = "$5" ] && into_place "$new" "$path" && { [ "$4" != absent ] || label "$path"; }
        ;;
    undo)
        case $(file_state "$path") in
        "$4") rm -f "$new" ;;
        "$5" | absent) put_back "$4" ;;
        "others can replace it" | link | "not a file") return 1 ;;
        *) keep "$path" "$JOURNAL/$2/theirs" && complain "what somebody wrote into $3 is in $JOURNAL/$2/theirs now"; put_back "$4" ;;
        esac || return 1
        [ "$4" != absent ] || while read -r folder; do rmdir "$folder" 2>/dev/null || :; done <"$folders"
        ;;
    kept) case $(file_state "$path") in "$4" | "$5") ;; *) drifted "$3" ;; esac ;;
    esac
}

missing_above() { # PATH: the folders on the way to it that are not there, the deepest first
    above=${1%/*}
    while [ -n "$above" ] && [ ! -d "$above" ]; do say "$above"; above=${above%/*}; done
}

put_back() { # BEFORE: $path is what it was; on a disk that is full, by writing over what it is
    rm -f "$new"
    if [ "$1" = absent ]; then rm -f "$path"
    elif ! { keep "$old" "$new" && [ "$(digest <"$new")" = "$1" ] && into_place "$new" "$path"; }; then
        rm -f "$new"
        cat "$old" >"$path" && durable "$path"
    fi
}

keep() { cp --preserve=all "$1" "$2" 2>/dev/null || cp -p "$1" "$2"; } # busybox and old systems know only -p
into_place() { durable "$1" && mv -f "$1" "$2" && durable "${2%/*}"; }
label() { ! command -v restorecon >/dev/null 2>&1 || restorecon "$1" || :; } # SELinux; only a new file needs it
drifted() { complain "not as it was when this was planned: $1"; return 1; }

access_step() { # VERB N PATH BEFORE MODE OWNER
    path=$ROOT$3
    case $1 in
    check) [ "$(access_state "$path")" = "$4" ] || drifted "permissions of $3" ;;
    finished) false ;;
    save) say "$4" >"$JOURNAL/$2/access" ;;
    do)
        { [ -z "$6" ] || chown -h "$6" "$path"; } && chmod "$5" "$path" && access_state "$path" >"$JOURNAL/$2/now" &&
            case $(cat "$JOURNAL/$2/now") in "$5 "*) ;; *) false ;; esac
        ;;
    undo)
        case $(access_state "$path") in
        absent | "$4") ;;
        [0-7]*) read -r mode user group <"$JOURNAL/$2/access" && chown -h "$user:$group" "$path" && chmod "$mode" "$path" ;;
        *) false ;;
        esac
        ;;
    kept) case $(access_state "$path") in absent | "$4" | "$(cat "$JOURNAL/$2/now" 2>/dev/null)") ;; *) drifted "permissions of $3" ;; esac ;;
    esac
}

command_step() { # VERB N BEFORE TITLE: BEFORE is the digest of what state_N prints
    BEFORE=$JOURNAL/$2/before FILE=$JOURNAL/$2/after
    export BEFORE FILE
    case $1 in
    check) [ "$(piece "state_$2" | digest)" = "$3" ] || drifted "$4" ;;
    finished) false ;;
    save) piece "state_$2" >"$BEFORE" && [ "$(digest <"$BEFORE")" = "$3" ] ;;
    do) piece "do_$2" && piece "state_$2" | digest >"$JOURNAL/$2/now" ;;
    undo) piece "undo_$2" ;;
    kept)
        now=$(piece "state_$2" | digest)
        [ "$now" = "$(cat "$JOURNAL/$2/now" 2>/dev/null || say "$now")" ] || [ "$now" = "$3" ] || drifted "$4"
        ;;
    esac
}

document_step() { # VERB N BEFORE AFTER TITLE: a command_step that writes what content_N makes of it
    case $1 in
    do) "content_$2" "$JOURNAL/$2/before" >"$JOURNAL/$2/after" && [ "$(digest <"$JOURNAL/$2/after")" = "$4" ] || return 1 ;;
    esac
    command_step "$1" "$2" "$3" "$5"
}

piece() { sh "$JOURNAL/plan.sh" piece "$1" </dev/null; } # a shell of its own: here -e is in force, whoever calls

# ---- what pieces may use

service_does() { # VERB NAME...: reload or restart those of these services that run; names differ between systems
    verb=$1
    shift
    for unit; do
        if [ -d "$ROOT/run/systemd/system" ]; then
            ! systemctl is-active --quiet "$unit.service" || systemctl "$verb" "$unit.service" || return 1
        elif [ -x "$ROOT/etc/init.d/$unit" ]; then
            ! "$ROOT/etc/init.d/$unit" status >/dev/null 2>&1 || "$ROOT/etc/init.d/$unit" "$verb" || return 1
        fi
    done
}

guests() { # that run, by libvirt and by xl
    virsh -r list --uuid 2>/dev/null | sort
    xl list 2>/dev/null | cut -d ' ' -f 1
}

with_guests() { # COMMAND...: fails if not the same guests run afterwards
    had=$(guests)
    "$@" || return 1
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ "$(guests)" != "$had" ] || return 0
        sleep 1
    done
    complain "not the same guests run as before"
    return 1
}

# ---- doing and undoing

run_step() { # N
    if "step_$1" finished; then return 0; fi
    mkdir -p "$JOURNAL/$1" && "step_$1" check && "step_$1" save && durable "$JOURNAL/$1"/* "$JOURNAL/$1" || return 1
    : >"$JOURNAL/$1/armed" && durable "$JOURNAL/$1" "$JOURNAL" && "step_$1" do
}

run_steps() { # FIRST LAST: stops at the first that fails, or when somebody has decided that all is undone
    n=$1
    while [ "$n" -le "$2" ]; do
        case $(decision) in revert*) complain "it took too long"; return 1 ;; esac
        run_step "$n" || { complain "step $n failed: $("title_$n")"; return 1; }
        n=$((n + 1))
    done
}

activate() {
    n=1
    while [ "$n" -le "$ACTIVATIONS" ]; do
        piece "activate_$n" || { complain "a service did not take it"; return 1; }
        n=$((n + 1))
    done
}

self_test() {
    n=1
    while [ "$n" -le "$TESTS" ]; do
        piece "test_$n" || { complain "a self-test failed"; return 1; }
        n=$((n + 1))
    done
}

undo_all() { # [early]: at boot before any service runs, only what is in files; what is undone once is so for good
    trouble=0 begun=0 n=$TOTAL
    [ "${1-}" = early ] || record status undoing
    while [ "$n" -gt 0 ]; do
        [ ! -e "$JOURNAL/$n/undone" ] || begun=1
        if [ -e "$JOURNAL/$n/armed" ] && { [ "${1-}" != early ] || [ ! -e "$JOURNAL/$n/before" ]; }; then
            begun=1
            if "step_$n" undo; then mv -f "$JOURNAL/$n/armed" "$JOURNAL/$n/undone"
            else complain "step $n cannot be undone: $("title_$n")"; trouble=1
            fi
        fi
        n=$((n - 1))
    done
    [ "${1-}" != early ] || return "$trouble"
    [ "$begun" = 0 ] || activate || trouble=1
    if [ "$trouble" = 0 ]; then record status reverted && release; else record status revert-failed; return 1; fi
}

undone() { # ends the program: all that was done is undone
    if undo_all; then complain "all of it was undone"; exit 11; fi
    complain "not all of it could be undone; what was before is in $JOURNAL"
    exit 12
}

release() { [ "$(pending)" != "$ID" ] || { unhook_boot && rm -f "$BASE/pending"; }; } # what another plan has armed stays
pending() { cat "$BASE/pending" 2>/dev/null; }

# ---- verbs

claim() { # one plan at a time
    other=$(pending)
    case ${other:-none}-$(cat "$BASE/${other:-none}/status" 2>/dev/null) in
    none-) ;;
    "$ID-" | *-confirmed | *-reverted) rm -f "$BASE/pending" ;;
    *-) runs "$(cat "$BASE/$other/apply" 2>/dev/null)" || rm -f "$BASE/pending" ;;
    esac
    say "$ID" >"$JOURNAL/.pending" && ln "$JOURNAL/.pending" "$BASE/pending" 2>/dev/null || { complain "plan $(pending) is not decided yet"; return 1; }
}

install() { # what is on standard input becomes this plan's program; nobody else can come to this at the same time
    mkdir -p "$BASE" && chmod 700 "$BASE" && exec 9>"$BASE/lock" || refuse "there is no place for the journal: $BASE"
    way_is_safe "$BASE/." || refuse "others can write to a folder on the way to $BASE"
    ! command -v flock >/dev/null 2>&1 || flock -n 9 || refuse "a plan is just about to be applied"
    case $(recorded status) in
    '' | reverted) ;;
    confirmed) say confirmed; exit 0 ;;
    *) refuse "this plan is $(recorded status)" ;;
    esac
    rm -rf "$JOURNAL" && mkdir "$JOURNAL" && cat >"$JOURNAL/plan.sh" && sync || turn_down "its program cannot be written"
}

turn_down() { rm -rf "$JOURNAL"; refuse "$*"; }

apply() { # S
    [ "$(host_id)" = "$HOST" ] || turn_down "this is another host than the one it was planned for"
    n=1
    while [ "$n" -le "$LAST" ]; do
        "step_$n" finished || "step_$n" check || turn_down "nothing was changed"
        n=$((n + 1))
    done
    record apply $$ && claim && record session "$(session)" && record status applying || { release; turn_down "nothing was changed"; }
    exec 9>&-
    { hook_boot || [ "$GUARDED" = 0 ]; } && arm "$1" || { record status reverted; release; refuse "the undo cannot be armed"; }
    if run_steps 1 "$LAST" && activate && self_test; then
        if [ "$GUARDED" = 1 ]; then
            if record status waiting; then say waiting; exit 0; fi
        elif decide confirm; then
            if make_permanent; then say confirmed; exit 0; fi
            undone
        fi
    fi
    if decide revert; then undone; fi
    complain "it is being undone"
    exit 11
}

confirm() {
    case $(recorded status)-$(decision) in
    confirmed-*) say confirmed; exit 0 ;;
    waiting-) ;;
    waiting-confirm* | confirming-*) complain "it is being confirmed"; exit 13 ;;
    applying-) refuse "it is still being applied" ;;
    *) complain "it was undone already"; exit 13 ;;
    esac
    [ "$(session)" != "$(recorded session)" ] || refuse "this is the connection that applied it; a new one must be made"
    decide confirm || { complain "it was undone already"; exit 13; }
    if make_permanent; then say confirmed; exit 0; fi
    undone
}

rollback() {
    case $(recorded status) in
    reverted) say reverted; exit 0 ;;
    confirmed)
        claim || exit 10
        n=1
        while [ "$n" -le "$TOTAL" ]; do
            [ ! -e "$JOURNAL/$n/armed" ] || "step_$n" kept || { release; exit 10; }
            n=$((n + 1))
        done
        ;;
    applying | waiting)
        [ "$(recorded status)" = waiting ] || ! runs "$(recorded apply)" || refuse "it is still being applied"
        decide revert || { complain "it is being decided"; exit 13; }
        ;;
    esac
    if undo_all; then say reverted; exit 0; fi
    exit 12
}

boot() { # early or late; no process of ours is older than the boot
    case $(recorded status) in applying | waiting | confirming | undoing | revert-failed) ;; *) release; exit 0 ;; esac
    if [ "$1" = late ]; then finish; exit; fi
    decide revert
    is_confirmed || undo_all early
}

main() {
    case $1 in
    apply) apply "$2" ;;
    deadman) deadman "$2" ;;
    boot) boot "$2" ;;
    confirm) confirm ;;
    rollback) rollback ;;
    piece) set -e; "$2" ;;
    esac
}
