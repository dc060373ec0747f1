/* SPDX-License-Identifier: GPL-2.0-only */
/* x86-64: the registers at a probe, arch/x86/include/asm/ptrace.h. */
#ifndef OTEL_QEMU_UAPI_LINUX_PTRACE_H
#define OTEL_QEMU_UAPI_LINUX_PTRACE_H

struct pt_regs {
    unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};

#endif
