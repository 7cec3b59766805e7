#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What the guest agent runs before it freezes the file systems ("freeze"), and after it has thawed them ("thaw").
export PATH=/bin:/sbin:/usr/sbin:/usr/bin
echo "DONJON-GUEST hook $1" >/dev/console
for hook in /run/hook /data/*/hook; do
    [ ! -e "$hook" ] || sh "$hook" "$1" || exit
done
