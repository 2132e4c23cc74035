/* SPDX-License-Identifier: GPL-2.0 */
/* The kernel's types over user space's <linux/types.h>, for the parts of the module that build here. */
#ifndef FUZZ_LINUX_TYPES_H
#define FUZZ_LINUX_TYPES_H

#include_next <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
#define __force

#endif
