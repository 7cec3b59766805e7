# SPDX-License-Identifier: Apache-2.0
# Certificates of the management plane, never keys: only what is between BEGIN and END CERTIFICATE is taken.
shell certificates 10 '
    set --
    for file in /etc/pki/CA/cacert.pem /etc/pki/libvirt/*cert.pem /etc/pki/qemu/*cert.pem /etc/pki/libvirt-*/*cert.pem \
        /etc/ovs-agent/cert/certificate.pem /etc/xen/*.crt /etc/cockpit/ws-certs.d/*.cert /etc/cockpit/ws-certs.d/*.crt \
        $(sed -n "s/^[[:space:]]*\(cert_file\|ca_file\)[[:space:]]*=[[:space:]]*\"\([^\"]*\)\".*/\2/p" \
            /etc/libvirt/libvirtd.conf /etc/libvirt/virtproxyd.conf 2>/dev/null); do
        [ -f "$file" ] && set -- "$@" "$file"
    done
    [ $# -gt 0 ] || exit 0
    awk "FNR == 1 { print \"# \" FILENAME } /BEGIN CERTIFICATE-/,/END CERTIFICATE-/" "$@"'
probe ovs-managers 5 ovs-vsctl --timeout=3 --format=csv --data=bare --no-heading --columns=target list Manager
probe ovs-controllers 5 ovs-vsctl --timeout=3 --format=csv --data=bare --no-heading --columns=target list Controller
