# SPDX-License-Identifier: Apache-2.0
# The collector's end: outputs of probes are redacted, and all of it goes to standard output as a tar.
spoilt() { # FILE CODE: a probe's output that cannot be brought whole is as good as none
    rm -f "$bundle/cmd/$1"
    name=${1%.*}
    echo 124 >"$bundle/cmd/$name.rc"
    if [ "$2" -eq 9 ]; then why="more than $OUTPUT_BYTES bytes"; else why="cannot be redacted"; fi
    echo "$1: $why" >"$bundle/cmd/$name.err"
}

look_now
rm -f "$work/over"
cd "$raw" || exit 3
set -- *
if [ -e "$1" ] && ! guard 30 redact "$bundle/cmd" "$OUTPUT_BYTES" "$@" 2>/dev/null; then
    for output; do
        guard 5 redact "$bundle/cmd" "$OUTPUT_BYTES" "$output" 2>/dev/null || spoilt "$output" $?
    done
fi
cd /

text() { # A JSON string of anything
    printf '%s' "$1" | tr -d '\000-\037' | sed 's/[\\"]/\\&/g; 1s/^/"/; $s/$/"/'
}
host=$(uname -n)
cat >"$bundle/manifest.json" <<END_OF_MANIFEST
{"collector": "$collector", "sha256": "$sha256", "host": $(text "${host:-unknown}"),
 "started": "$started", "user": $(text "$(id -un 2>/dev/null || id -u || echo unknown)"), "probes": [${probes#,}]}
END_OF_MANIFEST
: >"$bundle/end"
kill "$watcher" 2>/dev/null
watcher=
tar -cf - -C "$bundle" manifest.json cmd look root asked refused end || { echo "donjon: tar failed" >&2; exit 3; }
exit 0
