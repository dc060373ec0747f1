/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Have ranges of a disk zeroed, as `blkdiscard -z` of util-linux does: ioctl BLKZEROOUT, which Linux sends as WRITE SAME.
 *
 *   zero_out DEVICE BYTES COUNT    COUNT ranges of BYTES, 16 apart
 *
 * Without a C library, so that it is small enough to be typed into a guest.
 */
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/syscall.h>

__asm__(".globl _start\n_start: mov %rsp, %rdi\nand $-16, %rsp\ncall start\n");

static long call(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

static unsigned long number(const char *text)
{
    unsigned long value = 0;
    for (; *text; text++)
        value = 10 * value + *text - '0';
    return value;
}

/* What the kernel puts at the stack pointer: argc, then argv. */
__attribute__((used)) void start(long *stack)
{
    char **arguments = (char **)(stack + 1);
    unsigned long bytes = number(arguments[2]), count = number(arguments[3]);
    long device = call(SYS_open, (long)arguments[1], O_RDWR | O_DIRECT, 0), result = device;
    for (unsigned long i = 0; i < count && result >= 0; i++) {
        unsigned long range[2] = {16 * i * bytes, bytes};
        result = call(SYS_ioctl, device, BLKZEROOUT, (long)range);
    }
    call(SYS_exit, result < 0 ? -result : 0, 0, 0);
}
