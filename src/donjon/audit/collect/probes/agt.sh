# SPDX-License-Identifier: Apache-2.0
# Agents of the management plane: Oracle VM's, xend, donjon's own server.
copy /etc/xen/xend-config.sxp /etc/donjon/server.toml
copy '/etc/ovs-agent/*.ini' '/etc/ovs-agent/*.conf'
# What the agent keeps of its owner, and its lists where it keeps them there; nothing else of its database.
shell ovs-agent-server 10 '
    command -v ovs-agent-db >/dev/null 2>&1 || exit 127
    dump=$(ovs-agent-db dump_db server) || exit 1
    printf "%s\n" "$dump" | sed -n "/manager_uuid\|manager_ip\|pool_member_ip_list\|.allow.\|.deny./p"'
