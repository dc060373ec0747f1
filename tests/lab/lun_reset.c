/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reset a SCSI device's logical unit, as `sg_reset --device --no-escalate` of sg3_utils does: ioctl SG_SCSI_RESET.
 *
 * Without a C library, so that it is small enough to be typed into a guest.
 */
#include <fcntl.h>
#include <scsi/sg.h>
#include <sys/syscall.h>

static long call(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

void _start(void)
{
    int operation = SG_SCSI_RESET_DEVICE | 0x100;  /* SG_SCSI_RESET_NO_ESCALATE */
    long device = call(SYS_open, (long)"/dev/sda", O_RDWR | O_NONBLOCK, 0);
    long result = device < 0 ? device : call(SYS_ioctl, device, SG_SCSI_RESET, (long)&operation);
    call(SYS_exit, -result, 0, 0);
}
