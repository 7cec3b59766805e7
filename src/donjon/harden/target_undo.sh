# SPDX-License-Identifier: Apache-2.0
# The undo that is armed before the first change: a hook at boot, and a process that outlives whoever applies the plan.
# Goes with target.sh.

hook_boot() { # a reboot before the confirm undoes all, before services start where systemd runs
    if [ -d "$ROOT/run/systemd/system" ]; then
        for when in early late; do
            boot_unit $when >"$ROOT/etc/systemd/system/donjon-revert-$when.service" || return 1
        done
        for link in sysinit.target.wants/donjon-revert-early multi-user.target.wants/donjon-revert-late; do
            mkdir -p -m 755 "$ROOT/etc/systemd/system/${link%/*}" &&
                ln -sf "../${link##*/}.service" "$ROOT/etc/systemd/system/$link.service" || return 1
        done
        sync
    elif script=$(rc_local); then
        sed "1a\\
sh '$JOURNAL/plan.sh' boot late $MARK" "$script" | retext "$script" && grep -q "$MARK" "$script"
    elif [ -d "$ROOT/etc/cron.d" ]; then
        say "@reboot root sh '$JOURNAL/plan.sh' boot late $MARK" >"$ROOT/etc/cron.d/donjon-revert" && sync
    else
        return 1
    fi
}

unhook_boot() { # a hook that a power cut brings back does no harm: it finds that all is decided
    for place in systemd/system/sysinit.target.wants/donjon-revert-early systemd/system/multi-user.target.wants/donjon-revert-late \
        systemd/system/donjon-revert-early systemd/system/donjon-revert-late; do
        rm -f "$ROOT/etc/$place.service"
    done
    rm -f "$ROOT/etc/cron.d/donjon-revert"
    if script=$(rc_local); then
        rm -f "$script.donjon-new"
        ! grep -q "$MARK" "$script" || sed "/$MARK/d" "$script" | retext "$script"
    fi
}

rc_local() {
    for name in rc.d/rc.local rc.local; do
        if [ -x "$ROOT/etc/$name" ] && [ ! -L "$ROOT/etc/$name" ]; then say "$ROOT/etc/$name"; return 0; fi
    done
    return 1
}

retext() { # FILE: gets the text on standard input; its attributes stay
    keep "$1" "$1.donjon-new" && cat >"$1.donjon-new" && [ -s "$1.donjon-new" ] && into_place "$1.donjon-new" "$1"
}

boot_unit() { # early or late
    say '[Unit]'
    say "Description=Undo of what donjon changed and nobody confirmed ($1)"
    say "ConditionPathExists=$JOURNAL/plan.sh"
    say "RequiresMountsFor=/var/lib/donjon"
    if [ "$1" = early ]; then
        say 'DefaultDependencies=no'
        say 'After=local-fs.target'
        say 'Before=sysinit.target network-pre.target shutdown.target'
        say 'Conflicts=shutdown.target'
    else
        say 'After=network.target libvirtd.service virtqemud.service ssh.service sshd.service nftables.service firewalld.service'
    fi
    say '[Service]'
    say 'Type=oneshot'
    say "ExecStart=/bin/sh $JOURNAL/plan.sh boot $1"
}

arm() { # S: from now on somebody else undoes it, whatever becomes of us
    rm -f "$JOURNAL/deadman"
    if [ -d /run/systemd/system ] && command -v systemd-run >/dev/null 2>&1 &&
        systemd-run --quiet --unit="donjon-harden-$ID-$$" --setenv="DONJON_ROOT=$ROOT" \
            /bin/sh "$JOURNAL/plan.sh" deadman "$1" >/dev/null 2>&1; then
        :
    elif command -v setsid >/dev/null 2>&1; then
        (trap '' HUP && exec setsid sh "$JOURNAL/plan.sh" deadman "$1" </dev/null >/dev/null 2>&1) &
    else
        return 1
    fi
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        if runs "$(recorded deadman)"; then return 0; fi
        sleep 0.05 2>/dev/null || sleep 1
    done
    return 1
}

deadman() { # S: undoes all if nobody confirms so long, or if whoever decides or applies dies over it
    left=$1 limit=$LONGEST_APPLY_S
    record deadman $$
    while :; do
        [ "$(recorded deadman)" = $$ ] || exit 0 # the plan was undone, and is applied anew
        if decided=$(decision); then limit=$((limit - 1)); runs "${decided#* }" || break
        elif [ "$(recorded status)" = waiting ]; then left=$((left - 1))
        else limit=$((limit - 1)); runs "$(recorded apply)" || [ "$(recorded status)" = waiting ] || break
        fi
        [ "$left" -ge 0 ] && [ "$limit" -ge 0 ] || break
        sleep 1
    done
    if [ "$limit" -lt 0 ]; then
        for process in "$(recorded apply)" "${decided#* }"; do
            ! runs "$process" || kill -9 -- "-$process"
        done
    fi
    for pause in 5 30 120 600 0; do
        if finish; then exit 0; fi
        sleep "$pause"
    done
}

finish() { # what was decided; if nothing was, or it cannot be noted, it is undone
    case $(recorded status) in '' | confirmed | reverted) release; return 0 ;; esac
    decide revert
    if is_confirmed; then make_permanent || undo_all; else undo_all; fi
}

is_confirmed() { # and nobody has begun to undo it since
    case $(decision)-$(recorded status) in *-undoing | *-revert-failed) return 1 ;; confirm*) ;; *) return 1 ;; esac
}

make_permanent() {
    record status confirming && run_steps $((LAST + 1)) "$TOTAL" && record status confirmed && release
}
