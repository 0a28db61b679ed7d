/* The burst: the memory that one receive call fills, in a file, so that what was taken from the kernel outlives a kill.
 *
 *   file:    | header: what is in hand, 64 message headers, names of listeners | 64 buffers |
 *
 * The kernel itself writes the datagrams and their lengths into the file, inside the system call, which a SIGKILL does not
 * cut short. What is in hand are the messages whose length is not 0, while `listener` says whose they are:
 *
 *   burst_expect ─▶ recvmmsg ─▶ burst_note ─▶ readers ─▶ rings ─▶ burst_done      killed up to here: read by the next process
 *
 * That process knows from the note when they arrived and which stamp was the last one given, and so gives the same ones:
 * a burst of which a part was published already becomes the same points again. Readers overwrite bytes of the text for
 * a moment; each is noted before (`lent`) where it is one of another datagram, or of the same.
 *
 * What an earlier process left is copied before it is looked at, and no number in it is used before it is checked.
 */
#ifndef PENSTOCK_BURST_H
#define PENSTOCK_BURST_H

#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>
#include <time.h>

#include "ring_file.h"

#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define BURST_MAGIC UINT64_C(0x3154535242534e50) /* "PNSBRST1" in memory order */
#define BURST_LAYOUT 2
#define BURST_MESSAGES 64u /* datagrams (or glued runs of them) for one recvmmsg */
#define BURST_MESSAGE_BYTES 65536u
/* Distance of two buffers: not a power of two, or all would compete for the same lines of the cache. */
#define BURST_STRIDE (BURST_MESSAGE_BYTES + 1024u + CACHE_LINE)
#define BURST_LISTENERS 64u
#define BURST_NAME_BYTES 256u  /* of a listener's name, and of its address; longer ones are cut */
#define BURST_SEGMENTS_MAX 512u /* datagrams that a message may hold; the kernel glues 128 at most */
#define BURST_TRIES_MAX 8u /* a kill may hit those who read it as well, but not that often */
#define BURST_NONE UINT32_MAX

/* Tests stop here and there to be killed. */
#ifndef BURST_STEP
#define BURST_STEP(step) ((void)0)
#endif
typedef enum { BURST_TAKEN, BURST_NOTED, BURST_READ, BURST_PUBLISHED, BURST_DONE, BURST_STEPS } burst_step_t;

/* When a burst arrived, and the last stamp that was given before it. Whole only if the sum is right. */
typedef struct {
    int64_t arrival_ns; /* realtime */
    int64_t stamp_ns;
    uint64_t sum;
} burst_note_t;

typedef struct {
    _Atomic uint64_t magic; /* stored last */
    uint64_t layout;
    uint64_t bytes; /* of the file */
    uint64_t messages_max, stride;
    uint8_t boot_id[RING_BOOT_BYTES];
    int64_t created_ns; /* realtime; also keeps the sums of two files apart */
    uint64_t sum;       /* of all above but the magic */

    _Alignas(CACHE_LINE) _Atomic uint32_t listener; /* whose burst this is; BURST_NONE: nothing is in hand */
    burst_note_t note;
    uint64_t tries; /* processes that began to read what was left here */
    _Atomic uint64_t lent[2]; /* bytes that are overwritten: behind a datagram, and at the end of a window in it */
    _Alignas(CACHE_LINE) struct mmsghdr messages[BURST_MESSAGES]; /* the pointers in them are for this process only */
    /* The size of what was glued together, or who has sent it by a Unix socket. */
    _Alignas(CACHE_LINE) uint8_t control[BURST_MESSAGES][CMSG_SPACE(sizeof(struct ucred))];
    char names[BURST_LISTENERS][2][BURST_NAME_BYTES]; /* name and address, by the lane's number */
} burst_header_t;

typedef struct {
    burst_header_t *header; /* owned: mapping of the whole file */
    uint8_t *buffers;       /* inside it: BURST_MESSAGES times BURST_STRIDE */
    struct iovec vectors[BURST_MESSAGES];
    size_t control_bytes; /* that a message may have of control data */
    bool named;           /* the kernel is asked where messages come from, and says it here: */
    struct sockaddr_in6 names[BURST_MESSAGES];
} burst_t;

typedef enum {
    BURST_WHOLE,
    BURST_UNFINISHED, /* its maker was killed before it was one: nothing can be in it */
    BURST_FOREIGN,    /* none of ours, or of another size than it says */
    BURST_OLDER,      /* of another layout, or from before the machine was started */
    BURST_TORN,       /* of ours, and damaged */
    BURST_FATAL,      /* whole, and whoever read it has ended */
} burst_state_t;

typedef struct {
    burst_state_t state;
    bool known;         /* whether the rest can be told */
    uint32_t messages;  /* in hand */
    uint64_t datagrams; /* in them */
} burst_findings_t;

/* ---- memory ---- */

static inline size_t burst_head_bytes(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (sizeof(burst_header_t) + page - 1) / page * page;
}

static inline size_t burst_bytes(void)
{
    return burst_head_bytes() + (size_t)BURST_MESSAGES * BURST_STRIDE;
}

static inline void burst_close(burst_t *b)
{
    if (b->header != NULL)
        munmap(b->header, burst_bytes());
    b->header = NULL;
}

/* The sum of the header's constant part; seeds that of the note. */
static inline uint64_t burst_header_sum(const burst_header_t *h)
{
    uint64_t sum = sum_mix(sum_mix(sum_mix(BURST_MAGIC, h->layout), h->bytes), h->messages_max);
    sum = sum_mix(sum_mix(sum_mix(sum, h->stride), sizeof *h), (uint64_t)h->created_ns);
    return sum_mix(sum_mix(sum, port_load64(h->boot_id)), port_load64(h->boot_id + 8));
}

static inline uint64_t burst_note_sum(const burst_header_t *h, const burst_note_t *note)
{
    return sum_mix(sum_mix(h->sum, (uint64_t)note->arrival_ns), (uint64_t)note->stamp_ns) | 1;
}

/* Maps a new burst over fd, an empty file that the caller may close afterwards, or over memory that nobody will find again if
 * fd is -1. b: zeroed. Returns 0 or an errno; the burst is closed on failure.
 * Blocks are allocated, and pages brought in, first: where the kernel finds no page, the datagram is lost. */
static inline int burst_open(burst_t *b, int fd, const uint8_t *boot_id, int64_t created_ns)
{
    size_t bytes = burst_bytes();
    int error = fd < 0 ? 0 : posix_fallocate(fd, 0, (off_t)bytes);
    if (error)
        return error;
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED | MAP_POPULATE, fd, 0);
    if (map == MAP_FAILED)
        return errno;
    burst_header_t *h = b->header = map;
    b->buffers = (uint8_t *)map + burst_head_bytes();
    b->control_bytes = sizeof h->control[0];
    for (uint32_t i = 0; i < BURST_MESSAGES; i++) {
        b->vectors[i] = (struct iovec){b->buffers + (size_t)i * BURST_STRIDE, BURST_MESSAGE_BYTES};
        h->messages[i].msg_hdr = (struct msghdr){.msg_iov = &b->vectors[i], .msg_iovlen = 1, .msg_control = h->control[i],
                                                 .msg_controllen = sizeof h->control[i]};
    }
    h->layout = BURST_LAYOUT;
    h->bytes = bytes;
    h->messages_max = BURST_MESSAGES;
    h->stride = BURST_STRIDE;
    h->created_ns = created_ns;
    if (boot_id != NULL)
        memcpy(h->boot_id, boot_id, RING_BOOT_BYTES);
    h->sum = burst_header_sum(h);
    h->listener = BURST_NONE;
    atomic_store_explicit(&h->magic, BURST_MAGIC, memory_order_release);
    return 0;
}

/* Has the kernel say where messages come from, or not. Of this process only: who reads what was left has no use for it. Not
 * while a burst is in hand. */
static inline void burst_ask_names(burst_t *b, bool asked)
{
    for (uint32_t i = 0; i < BURST_MESSAGES; i++) {
        b->header->messages[i].msg_hdr.msg_name = asked ? &b->names[i] : NULL;
        b->header->messages[i].msg_hdr.msg_namelen = asked ? sizeof b->names[i] : 0;
    }
    b->named = asked;
}

/* Says under which name the listener with the number is to be found. Not while a burst of it is in hand. */
static inline void burst_name(burst_t *b, uint32_t listener, const char *name, const char *address)
{
    const char *texts[2] = {name, address};
    for (int i = 0; i < 2; i++) {
        char *to = b->header->names[listener][i];
        size_t n = strnlen(texts[i], BURST_NAME_BYTES - 1);
        memset(to, 0, BURST_NAME_BYTES);
        memcpy(to, texts[i], n);
    }
}

/* ---- a burst; one thread ---- */

/* Before the receive call: what it brings is for this listener. All lengths are 0. */
static inline void burst_expect(burst_t *b, uint32_t listener)
{
    burst_header_t *h = b->header;
    h->note.sum = 0;
    atomic_store_explicit(&h->lent[0], 0, memory_order_relaxed);
    atomic_store_explicit(&h->lent[1], 0, memory_order_relaxed);
    atomic_store_explicit(&h->listener, listener, memory_order_release);
}

/* After it, and before anything of it is published. */
static inline void burst_note(burst_t *b, int64_t arrival_ns, int64_t stamp_ns)
{
    burst_note_t *note = &b->header->note;
    note->arrival_ns = arrival_ns;
    note->stamp_ns = stamp_ns;
    port_in_order();
    note->sum = burst_note_sum(b->header, note);
    port_in_order();
}

/* All of it is published: with one store nothing is in hand any more. n: messages that the call has filled. */
static inline void burst_done(burst_t *b, int n)
{
    burst_header_t *h = b->header;
    atomic_store_explicit(&h->listener, BURST_NONE, memory_order_release);
    BURST_STEP(BURST_DONE);
    for (int i = 0; i < n; i++) {
        h->messages[i].msg_len = 0;
        h->messages[i].msg_hdr.msg_controllen = b->control_bytes;
    }
    for (int i = 0; i < n && b->named; i++)
        h->messages[i].msg_hdr.msg_namelen = sizeof b->names[i];
    port_in_order();
}

/* Notes the byte at p, in a buffer, before somebody overwrites it. which: of the two notes. */
static inline void burst_lend(burst_t *b, int which, const uint8_t *p)
{
    port_lend(&b->header->lent[which], b->buffers, p);
}

/* The size of the datagrams glued together in a message of `length` bytes; `length` itself if it is one. */
static inline uint32_t burst_segment_bytes(struct msghdr *message, uint32_t length)
{
    if (message->msg_controllen == 0)
        return length;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c))
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
            int bytes;
            memcpy(&bytes, CMSG_DATA(c), sizeof bytes);
            if (bytes > 0)
                return (uint32_t)bytes;
        }
    return length;
}

/* Closes the descriptors that came with a message: whoever may write to a Unix socket can pass some along, and would take
 * ours away until there are none left. For the process that has received it only. */
static inline void burst_close_passed(struct msghdr *message)
{
    if (message->msg_controllen == 0)
        return;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len; at += sizeof(int)) {
            int fd;
            memcpy(&fd, (uint8_t *)c + at, sizeof fd);
            close(fd);
        }
    }
}

#endif
