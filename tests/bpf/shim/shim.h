/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Lets the unchanged BPF program be compiled as an ordinary shared library, which library.py loads.  It has bcc's maps
 * and the kernel's helpers, with the kernel's return codes.  All that a test sets or reads is a global named shim_*.
 */
#include <linux/types.h>
#include <errno.h>
#include <string.h>

#define PT_REGS_PARM1(ctx) ((ctx)->di)
#define PT_REGS_PARM2(ctx) ((ctx)->si)
#define PT_REGS_PARM3(ctx) ((ctx)->dx)
#define PT_REGS_PARM4(ctx) ((ctx)->cx)
#define PT_REGS_PARM5(ctx) ((ctx)->r8)
#define PT_REGS_PARM6(ctx) ((ctx)->r9)
#define PT_REGS_SP(ctx) ((ctx)->sp)
#define PT_REGS_IP(ctx) ((ctx)->ip)

/* ---- the traced process and the clock ----------------------------------------------------------------------- */

#define SHIM_MEMORY_BYTES (8 << 20)
#define SHIM_MEMORY_BASE 0x7f0000000000ULL   /* the same addresses in every run: failures repeat */

u8 shim_memory[SHIM_MEMORY_BYTES];

struct shim_world {
    u64 now_ns;
    u64 pid_tgid;
    u64 reads;             /* number of reads of the traced process's memory */
    u64 fail_read;         /* number of the read that fails, counted from 1; 0: no read */
    u64 hole_start;        /* addresses that cannot be read, */
    u64 hole_end;          /* up to here */
    u64 faults_injected;   /* number of reads that failed for these reasons: a fault that is never reached tests nothing */
    u64 cookie;            /* of the site that was hit */
    u64 dice;              /* the next random number, in the low 32 bits */
    u64 dice_step;         /* added to it after each draw */
    u64 throws;            /* number of draws */
} shim_world;

static u64 bpf_ktime_get_ns(void)
{
    return shim_world.now_ns;
}

static u64 bpf_get_current_pid_tgid(void)
{
    return shim_world.pid_tgid;
}

static u64 bpf_get_attach_cookie(void *context)
{
    (void)context;
    return shim_world.cookie;
}

static u32 bpf_get_prandom_u32(void)
{
    u32 number = shim_world.dice;
    shim_world.dice += shim_world.dice_step;
    shim_world.throws++;
    return number;
}

static int shim_struck(u64 from, u64 size)
{
    struct shim_world *world = &shim_world;
    return world->reads == world->fail_read || (from < world->hole_end && from + size > world->hole_start);
}

/* Like the kernel's, it clears the destination when it fails. */
static int bpf_probe_read_user(void *to, u32 size, const void *from)
{
    u64 at = (u64)from - SHIM_MEMORY_BASE;
    shim_world.reads++;
    int struck = shim_struck((u64)from, size);
    if (struck || at > SHIM_MEMORY_BYTES || size > SHIM_MEMORY_BYTES - at) {
        shim_world.faults_injected += struck;
        memset(to, 0, size);
        return -EFAULT;
    }
    memcpy(to, shim_memory + at, size);
    return 0;
}

/* ---- hash maps ---------------------------------------------------------------------------------------------- */

struct shim_hash {
    u32 key_bytes;
    u32 value_bytes;
    u32 buckets;
    u32 capacity;          /* at most `buckets`; a test may lower it */
    u32 size;
    u32 touched;           /* slots 1 to this have been used; a slot's number is its index + 1; 0: no slot */
    u32 freed;             /* first of the chain of freed slots */
    u32 unused;
    u32 *first;            /* of each bucket's chain */
    u32 *next;
    char *keys;
    char *values;
};

static u32 *shim_bucket(struct shim_hash *map, const void *key)
{
    u64 hash = 0xcbf29ce484222325ULL;
    for (u32 i = 0; i < map->key_bytes; i++)
        hash = (hash ^ ((const u8 *)key)[i]) * 0x100000001b3ULL;
    return &map->first[(hash >> 20) % map->buckets];
}

/* The link that leads to the key's slot, or the empty one at the end of its chain. */
static u32 *shim_find(struct shim_hash *map, const void *key)
{
    u32 *link = shim_bucket(map, key);
    while (*link && memcmp(map->keys + (u64)(*link - 1) * map->key_bytes, key, map->key_bytes))
        link = &map->next[*link - 1];
    return link;
}

void *shim_lookup(struct shim_hash *map, const void *key)
{
    u32 slot = *shim_find(map, key);
    return slot ? map->values + (u64)(slot - 1) * map->value_bytes : 0;
}

static u32 shim_take_slot(struct shim_hash *map)
{
    u32 slot = map->freed;
    if (!slot)
        return ++map->touched;
    map->freed = map->next[slot - 1];
    return slot;
}

/* BPF_ANY, or BPF_NOEXIST when it may not replace. */
int shim_put(struct shim_hash *map, const void *key, const void *value, int replace)
{
    u32 *link = shim_find(map, key);
    if (*link && !replace)
        return -EEXIST;
    if (!*link) {
        if (map->size >= map->capacity)
            return -E2BIG;
        u32 slot = shim_take_slot(map);
        map->size++;
        map->next[slot - 1] = 0;
        memcpy(map->keys + (u64)(slot - 1) * map->key_bytes, key, map->key_bytes);
        *link = slot;
    }
    memcpy(map->values + (u64)(*link - 1) * map->value_bytes, value, map->value_bytes);
    return 0;
}

/* Spoils the value: in the kernel another CPU may have it by now. */
int shim_delete(struct shim_hash *map, const void *key)
{
    u32 *link = shim_find(map, key), slot = *link;
    if (!slot)
        return -ENOENT;
    *link = map->next[slot - 1];
    map->next[slot - 1] = map->freed;
    map->freed = slot;
    map->size--;
    memset(map->values + (u64)(slot - 1) * map->value_bytes, 0xdd, map->value_bytes);
    return 0;
}

void shim_clear(struct shim_hash *map, u32 capacity)
{
    memset(map->first, 0, sizeof(u32) * map->buckets);
    map->size = map->touched = map->freed = 0;
    map->capacity = capacity < map->buckets ? capacity : map->buckets;
}

/* Every entry, one after the other; returns how many.  Both must have room for `capacity` of them. */
u32 shim_copy(struct shim_hash *map, char *keys, char *values)
{
    u32 copied = 0;
    for (u32 bucket = 0; bucket < map->buckets; bucket++)
        for (u32 slot = map->first[bucket]; slot; slot = map->next[slot - 1], copied++) {
            memcpy(keys + (u64)copied * map->key_bytes, map->keys + (u64)(slot - 1) * map->key_bytes, map->key_bytes);
            memcpy(values + (u64)copied * map->value_bytes, map->values + (u64)(slot - 1) * map->value_bytes,
                   map->value_bytes);
        }
    return copied;
}

#define BPF_HASH(name, key_type, value_type, entries)                                                                 \
    static u32 name##_first[entries], name##_next[entries];                                                           \
    static key_type name##_keys[entries];                                                                             \
    static value_type name##_values[entries];                                                                         \
    struct shim_hash shim_##name = {                                                                                  \
        sizeof(key_type), sizeof(value_type), entries, entries, 0, 0, 0, 0,                                           \
        name##_first, name##_next, (char *)name##_keys, (char *)name##_values};                                       \
    static value_type *name##_lookup(key_type *key) { return shim_lookup(&shim_##name, key); }                        \
    static int name##_insert(key_type *key, value_type *value) { return shim_put(&shim_##name, key, value, 0); }      \
    static int name##_update(key_type *key, value_type *value) { return shim_put(&shim_##name, key, value, 1); }      \
    static int name##_delete(key_type *key) { return shim_delete(&shim_##name, key); }                                \
    static const struct {                                                                                             \
        value_type *(*lookup)(key_type *);                                                                            \
        int (*insert)(key_type *, value_type *);                                                                      \
        int (*update)(key_type *, value_type *);                                                                      \
        int (*delete)(key_type *);                                                                                    \
    } name = {name##_lookup, name##_insert, name##_update, name##_delete}

#define BPF_ARRAY(name, value_type, entries)                                                                          \
    value_type shim_##name[entries];                                                                                  \
    static value_type *name##_lookup(int *index)                                                                      \
    {                                                                                                                 \
        return *index >= 0 && *index < (entries) ? &shim_##name[*index] : 0;                                          \
    }                                                                                                                 \
    static const struct { value_type *(*lookup)(int *); } name = {name##_lookup}

/* No program is ever in it, so that a call returns to who made it. */
#define BPF_PROG_ARRAY(name, entries)                                                                                 \
    static void name##_call(void *context, int index)                                                                 \
    {                                                                                                                 \
        (void)context;                                                                                                \
        (void)index;                                                                                                  \
    }                                                                                                                 \
    static const struct { void (*call)(void *, int); } name = {name##_call}

/* One CPU is all there is. */
#define BPF_PERCPU_ARRAY BPF_ARRAY

/* ---- the ring buffer: never wraps, for a test reads it empty --------------------------------------------------- */

#define SHIM_RING_BYTES (1 << 20)
#define SHIM_BUSY 0x80000000u      /* BPF_RINGBUF_BUSY_BIT and _DISCARD_BIT of a record's length word */
#define SHIM_DISCARDED 0x40000000u
#define SHIM_NO_WAKEUP 1

struct shim_ring {
    u64 capacity;          /* bytes; at most SHIM_RING_BYTES */
    u64 used;
    u64 wakeups;           /* submits that would have woken the reader */
    char data[SHIM_RING_BYTES] __attribute__((aligned(8)));
} shim_ring;

/* As in kernel/bpf/ringbuf.c: 8 bytes of header a record, and a ring is never filled to its last byte. */
static void *shim_reserve(u64 size)
{
    u64 total = (size + 8 + 7) & ~7ULL;
    if (shim_ring.used + total > shim_ring.capacity - 1)
        return 0;
    u32 *header = (u32 *)(shim_ring.data + shim_ring.used);
    header[0] = size | SHIM_BUSY;
    header[1] = 0;
    shim_ring.used += total;
    return header + 2;
}

static void shim_commit(void *data, u64 flags, u32 bits)
{
    u32 *header = (u32 *)data - 2;
    header[0] = (header[0] & ~SHIM_BUSY) | bits;
    shim_ring.wakeups += !(flags & SHIM_NO_WAKEUP);
}

static void shim_submit(void *data, u64 flags)
{
    shim_commit(data, flags, 0);
}

static void shim_discard(void *data, u64 flags)
{
    shim_commit(data, flags, SHIM_DISCARDED);
}

static int shim_output(void *data, u64 size, u64 flags)
{
    void *to = shim_reserve(size);
    if (!to)
        return -EAGAIN;
    memcpy(to, data, size);
    shim_submit(to, flags);
    return 0;
}

/* BPF_RB_AVAIL_DATA, _RING_SIZE, _CONS_POS, _PROD_POS */
static u64 shim_query(u64 what)
{
    u64 answers[4] = {shim_ring.used, shim_ring.capacity, 0, shim_ring.used};
    return what < 4 ? answers[what] : 0;
}

#define BPF_RINGBUF_OUTPUT(name, pages)                                                                               \
    static const struct {                                                                                             \
        void *(*ringbuf_reserve)(u64);                                                                                \
        void (*ringbuf_submit)(void *, u64);                                                                          \
        void (*ringbuf_discard)(void *, u64);                                                                         \
        int (*ringbuf_output)(void *, u64, u64);                                                                      \
        u64 (*ringbuf_query)(u64);                                                                                    \
    } name = {shim_reserve, shim_submit, shim_discard, shim_output, shim_query};                                      \
    _Static_assert((pages) * 4096 <= SHIM_RING_BYTES, "the ring of the shim is too small")
