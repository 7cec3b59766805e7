#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes a dom0 of a fresh Debian root: dom0_setup.sh ROOT. It has a bridge for guests, and lets the lab in by ssh as root.
set -eu
root=$1
kernel=$(basename "$root"/lib/modules/*)

echo dom0 >"$root/etc/hostname"
echo '127.0.0.1 localhost dom0' >"$root/etc/hosts"
cat >"$root/etc/fstab" <<'END'
/dev/vda / ext4 defaults 0 1
xenfs /proc/xen xenfs defaults,nofail 0 0
END
printf '%s\n' xen-blkback xen-netback xen-gntdev xen-evtchn xen-gntalloc loop >"$root/etc/modules-load.d/xen.conf"

# Without a bridge port that forwards, nothing waits for the spanning tree.
cat >"$root/etc/systemd/network/10-wan.network" <<'END'
[Match]
Name=en* eth*
[Network]
DHCP=yes
END
cat >"$root/etc/systemd/network/20-xenbr0.netdev" <<'END'
[NetDev]
Name=xenbr0
Kind=bridge
[Bridge]
STP=no
ForwardDelaySec=0
END
cat >"$root/etc/systemd/network/20-xenbr0.network" <<'END'
[Match]
Name=xenbr0
[Network]
Address=10.77.0.1/24
ConfigureWithoutCarrier=yes
LinkLocalAddressing=no
END
chroot "$root" systemctl enable -q systemd-networkd ssh
chroot "$root" systemctl mask -q systemd-networkd-wait-online apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer dpkg-db-backup.timer

# A PV guest that needs next to nothing: BusyBox in an initramfs, with a disk that it does not mount.
guest=$root/tmp/guest
mkdir "$guest" "$guest/bin" "$guest/dev" "$guest/proc"
cp "$root/bin/busybox" "$guest/bin/"
cat >"$guest/init" <<'END'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
echo "guest is up"
while :; do /bin/busybox sleep 60; done
END
chmod +x "$guest/init"
chroot "$root" sh -c 'cd /tmp/guest && find . | cpio -o -H newc --quiet | gzip >/boot/initrd.guest'
rm -r "$guest"
mkdir -p "$root/var/lib/xen/images"
truncate -s 16M "$root/var/lib/xen/images/web.img"
cat >"$root/etc/xen/web.cfg" <<END
name = "web"
uuid = "11111111-2222-4333-8444-555555555555"
type = "pv"
kernel = "/boot/vmlinuz-$kernel"
ramdisk = "/boot/initrd.guest"
extra = "console=hvc0"
memory = 96
vcpus = 1
disk = [ '/var/lib/xen/images/web.img,raw,xvda,w' ]
vif = [ 'mac=00:16:3e:00:00:02,bridge=xenbr0' ]
END
rm -r "$root"/usr/share/doc "$root"/usr/share/locale "$root"/usr/share/man
