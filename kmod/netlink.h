/* SPDX-License-Identifier: GPL-2.0 */
/* Generic netlink family "fastoci", see fastoci_netlink.h. */
#ifndef FASTOCI_NETLINK_INIT_H
#define FASTOCI_NETLINK_INIT_H

int fastoci_netlink_init(void);
/* Waits for commands, dumps and releases of sockets that still run. Sleeps. */
void fastoci_netlink_exit(void);

#endif /* FASTOCI_NETLINK_INIT_H */
