# SPDX-License-Identifier: Apache-2.0
# How the host boots: firmware, TPM, boot loader, consoles.

# "firmware uefi|bios", then of each EFI variable its name and its byte after the four of its attributes.
shell firmware 5 '
    efi=/sys/firmware/efi
    [ -d "$efi" ] || { echo "firmware bios"; exit 0; }
    echo "firmware uefi"
    for name in SecureBoot SetupMode; do
        variable=$efi/efivars/$name-8be4df61-93ca-11d2-aa0d-00e098032b8c
        if [ -e "$variable" ]; then echo "$name $(od -An -tu1 -j4 -N1 "$variable")"
        elif [ -e "$efi/vars/${variable##*/}/data" ]; then echo "$name $(od -An -tu1 -N1 "$efi/vars/${variable##*/}/data")"
        fi
    done'
# "version N", "log BYTES", "pcr N DIGEST" of the SHA-256 bank.
shell tpm 5 '
    tpm=/sys/class/tpm/tpm0
    [ -e "$tpm" ] || { echo none; exit 0; }
    if [ -e "$tpm/tpm_version_major" ]; then echo "version $(cat "$tpm/tpm_version_major")"
    elif [ -e "$tpm/device/caps" ]; then echo "version 1"
    fi
    log=/sys/kernel/security/tpm0/binary_bios_measurements
    if [ -e "$log" ]; then echo "log $(wc -c <"$log")"
    elif [ -d /sys/kernel/security/integrity ] || grep -qs " /sys/kernel/security " /proc/mounts; then echo "log 0"
    fi
    if [ -d "$tpm/pcr-sha256" ]; then
        for pcr in 0 2 4 7 8 9; do echo "pcr $pcr $(cat "$tpm/pcr-sha256/$pcr")"; done
    fi'
probe efibootmgr 5 efibootmgr -v

# Boot entries and passwords of the boot loader: "FILE:LINE:TEXT"; of a password only its kind. Red Hat's grub.cfg names
# a variable where no password may be set.
donjon_boot='
function say(text) { print FILENAME ":" FNR ":" text }
{ sub(/^[ \t]+/, "") }
/^(linux|linux16|linuxefi|kernel|multiboot|multiboot2|module|module2|options|chainloader|kernelopts=)/ {
    gsub(/[^ ]*(passw|secret|token|key=)[^ ]*/, "***")
    say($0)
}
/^set superusers="?[A-Za-z]/ { say("superusers") }
/^(password_pbkdf2 .*|GRUB2_PASSWORD=)grub\.pbkdf2/ { say("password pbkdf2") }
/^password --md5/ { say("password md5"); next }
/^password --encrypted/ { say("password encrypted"); next }
/^password / { say("password clear") }
/^editor[ \t]/ { say("editor " $2) }'
export donjon_boot
shell boot-loader 5 '
    set --
    for file in /boot/grub/grub.cfg /boot/grub2/grub.cfg /boot/efi/EFI/*/grub.cfg /boot/grub/grub.conf \
        /boot/grub/menu.lst /boot/grub2/user.cfg /boot/efi/EFI/*/user.cfg /boot/grub2/grubenv /boot/grub/grubenv \
        /boot/loader/loader.conf /boot/efi/loader/loader.conf /efi/loader/loader.conf \
        /boot/loader/entries/*.conf /boot/efi/loader/entries/*.conf /efi/loader/entries/*.conf; do
        [ -f "$file" ] || continue
        [ -r "$file" ] || { echo "cannot read $file" >&2; exit 1; }
        set -- "$@" "$file"
    done
    for folder in /boot /boot/grub /boot/grub2 /boot/loader/entries /boot/efi; do
        [ ! -d "$folder" ] || [ -x "$folder" ] || { echo "cannot look into $folder" >&2; exit 1; }
    done
    for file; do echo "file $file"; done
    [ $# = 0 ] || awk "$donjon_boot" "$@"'
look -d 1 /boot
look -d 1 /boot/grub /boot/grub2 /boot/loader /boot/loader/entries
look -d 3 /boot/efi /efi
# What the units of consoles and of the emergency shell run.
shell console-units 5 '
    set --
    for folder in /etc/systemd/system /run/systemd/system /usr/lib/systemd/system /lib/systemd/system; do
        [ "$folder" != /lib/systemd/system ] || [ ! -h /lib ] || continue
        for file in "$folder"/*getty*.service "$folder"/*getty*.service.d/*.conf "$folder"/emergency.service \
            "$folder"/emergency.service.d/*.conf "$folder"/rescue.service "$folder"/rescue.service.d/*.conf; do
            [ ! -f "$file" ] || set -- "$@" "$file"
        done
    done
    [ $# = 0 ] || awk "/^[ \t]*(ExecStart|Environment)=/ { print FILENAME \":\" FNR \":\" \$0 }" "$@"'
copy /etc/inittab /etc/sysconfig/init
