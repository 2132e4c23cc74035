/* SPDX-License-Identifier: GPL-2.0 */
#ifndef FASTOCI_TARGET_H
#define FASTOCI_TARGET_H

int fastoci_target_init(void);
void fastoci_target_exit(void);

#endif /* FASTOCI_TARGET_H */
