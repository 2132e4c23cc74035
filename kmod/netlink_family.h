/* SPDX-License-Identifier: GPL-2.0 */
/* What the files of the family "fastoci" share: netlink.c, netlink_dump.c, netlink_event.c. */
#ifndef FASTOCI_NETLINK_FAMILY_H
#define FASTOCI_NETLINK_FAMILY_H

#include <net/genetlink.h>

#include "compat.h"
#include "image.h"

extern struct genl_family fastoci_genl_family;
extern const struct fastoci_helper_ops fastoci_netlink_ops;

/* Puts the attributes of an image into @skb. -EMSGSIZE if there is no room. */
int fastoci_put_image(struct sk_buff *skb, const struct fastoci_image *image);

/* The functions of struct genl_ops for dumps. */
int fastoci_dump_start(struct netlink_callback *cb);
int fastoci_dump_slots_start(struct netlink_callback *cb);
int fastoci_dump_caches(struct sk_buff *skb, struct netlink_callback *cb);
int fastoci_dump_images(struct sk_buff *skb, struct netlink_callback *cb);
int fastoci_dump_spaces(struct sk_buff *skb, struct netlink_callback *cb);
int fastoci_dump_slots(struct sk_buff *skb, struct netlink_callback *cb);

#endif /* FASTOCI_NETLINK_FAMILY_H */
