/* SPDX-License-Identifier: GPL-2.0 */
#ifndef FUZZ_LINUX_MINMAX_H
#define FUZZ_LINUX_MINMAX_H

#define max(a, b) ((a) > (b) ? (a) : (b))

#endif
