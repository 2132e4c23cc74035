/* SPDX-License-Identifier: GPL-2.0 */
#ifndef FUZZ_LINUX_SIZES_H
#define FUZZ_LINUX_SIZES_H

#define SZ_4K 4096

#endif
