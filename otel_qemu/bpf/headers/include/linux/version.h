/* SPDX-License-Identifier: GPL-2.0-only */
/* Only compared with by bcc; nothing here depends on a kernel version. */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 8, 0)
