/* Bursts that an earlier process left: copied, looked at, and believed only where it must be so.
 *
 * A burst may be read if it lies in a file that we wrote ourselves, in this layout, since this machine was started, and if
 * every length in it is one that the kernel may have given. What the datagrams say is not looked at here: anybody may
 * have sent anything, and the readers take it for that.
 */
#ifndef PENSTOCK_BURST_LEFT_H
#define PENSTOCK_BURST_LEFT_H

#include <stddef.h>

#include "burst.h"

/* What kind of file this is, by its header, which may be any bytes. size: bytes of the file. */
static inline burst_state_t burst_judge(const burst_header_t *h, uint64_t size, const uint8_t *boot_id)
{
    uint64_t magic = atomic_load_explicit((_Atomic uint64_t *)&h->magic, memory_order_relaxed);
    if (magic != BURST_MAGIC)
        return magic == 0 && h->layout <= BURST_LAYOUT ? BURST_UNFINISHED : BURST_FOREIGN;
    if (h->layout != BURST_LAYOUT)
        return BURST_OLDER;
    if (h->sum != burst_header_sum(h))
        return BURST_TORN;
    if (h->messages_max != BURST_MESSAGES || h->stride != BURST_STRIDE || h->bytes != burst_bytes() || size != h->bytes)
        return BURST_FOREIGN;
    return memcmp(h->boot_id, boot_id, RING_BOOT_BYTES) == 0 ? BURST_WHOLE : BURST_OLDER;
}

/* Whether a message may be read; *datagrams is how many are in it. Its control data are those in the header. */
static inline bool burst_message_whole(burst_header_t *h, uint32_t i, uint64_t *datagrams)
{
    struct mmsghdr *message = &h->messages[i];
    *datagrams = 1;
    if (message->msg_len > BURST_MESSAGE_BYTES || message->msg_hdr.msg_controllen > sizeof h->control[i])
        return false;
    uint32_t segment = burst_segment_bytes(&message->msg_hdr, message->msg_len);
    *datagrams = (message->msg_len + (uint64_t)segment - 1) / segment;
    return *datagrams <= BURST_SEGMENTS_MAX;
}

/* Puts back a byte that was overwritten when the process was killed. */
static inline void burst_restore(burst_t *b, uint64_t lent)
{
    uint64_t place = lent >> PORT_LENT_SHIFT;
    if (lent & PORT_LENT && place < (uint64_t)BURST_MESSAGES * BURST_STRIDE)
        b->buffers[place] = (uint8_t)lent;
}

/* Reads n bytes of the file; false if they are not there. */
static inline bool burst_fetch(int fd, void *to, size_t n, size_t at)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(fd, (uint8_t *)to + done, n - done, (off_t)(at + done));
        if (got <= 0)
            return false;
        done += (size_t)got;
    }
    return true;
}

/* Looks at every message in hand, and fetches those that may be read. */
static inline void burst_survey(burst_t *b, int fd, burst_findings_t *found)
{
    burst_header_t *h = b->header;
    uint32_t listener = atomic_load_explicit(&h->listener, memory_order_relaxed);
    for (uint32_t i = 0; i < BURST_MESSAGES; i++) {
        struct mmsghdr *message = &h->messages[i];
        if (listener == BURST_NONE)
            message->msg_len = 0; /* published, and not yet cleared */
        message->msg_hdr.msg_control = h->control[i];
        message->msg_hdr.msg_controllen = message->msg_len ? message->msg_hdr.msg_controllen : 0;
    }
    if (listener == BURST_NONE)
        return;
    if (listener >= BURST_LISTENERS && found->state == BURST_WHOLE)
        found->state = BURST_TORN;
    for (uint32_t i = 0; i < BURST_MESSAGES; i++) {
        uint64_t datagrams;
        if (h->messages[i].msg_len == 0)
            continue;
        bool whole = burst_message_whole(h, i, &datagrams);
        found->messages++;
        found->datagrams += whole ? datagrams : 1;
        size_t at = (size_t)i * BURST_STRIDE;
        if (found->state == BURST_WHOLE && !(whole && burst_fetch(fd, b->buffers + at, h->messages[i].msg_len, burst_head_bytes() + at)))
            found->state = BURST_TORN;
    }
    burst_restore(b, atomic_load_explicit(&h->lent[0], memory_order_relaxed));
    burst_restore(b, atomic_load_explicit(&h->lent[1], memory_order_relaxed));
}

/* Gives a burst whose arrival was not noted one, in the file as well: whoever is killed while he reads it, and whoever reads
 * it next, give it the same stamps. */
static inline int burst_note_left(burst_t *b, int fd, int64_t now_ns)
{
    burst_note_t *note = &b->header->note;
    if (note->sum == burst_note_sum(b->header, note))
        return 0;
    burst_note(b, now_ns, 0);
    ssize_t n = pwrite(fd, note, sizeof *note, (off_t)offsetof(burst_header_t, note));
    return n < 0 ? errno : n == (ssize_t)sizeof *note ? 0 : EIO;
}

/* Notes in the file that somebody begins to read it. What makes an agent crash must not do so at each start: after
 * BURST_TRIES_MAX times it is not read any more. */
static inline int burst_try_left(burst_t *b, int fd, burst_findings_t *found)
{
    uint64_t tries = b->header->tries + 1;
    if (found->state == BURST_WHOLE && found->messages && tries > BURST_TRIES_MAX)
        found->state = BURST_FATAL;
    if (found->state != BURST_WHOLE || found->messages == 0)
        return 0;
    ssize_t n = pwrite(fd, &tries, sizeof tries, (off_t)offsetof(burst_header_t, tries));
    return n < 0 ? errno : n == (ssize_t)sizeof tries ? 0 : EIO;
}

/* Copies what is in hand in the file fd, open for writing, and says what it is: to be read if the state is BURST_WHOLE.
 * b: zeroed. Returns 0 or an errno; burst_close is due either way. */
static inline int burst_read_left(burst_t *b, int fd, const uint8_t *boot_id, int64_t now_ns, burst_findings_t *found)
{
    struct stat status;
    memset(found, 0, sizeof *found);
    if (fstat(fd, &status) < 0)
        return errno;
    void *map = mmap(NULL, burst_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return errno;
    b->header = map;
    b->buffers = (uint8_t *)map + burst_head_bytes();
    ssize_t n = pread(fd, b->header, sizeof *b->header, 0); /* what a short file does not have is zero */
    if (n < 0)
        return errno;
    found->state = S_ISREG(status.st_mode) ? burst_judge(b->header, (uint64_t)status.st_size, boot_id) : BURST_FOREIGN;
    for (uint32_t i = 0; i < BURST_LISTENERS; i++)
        for (int k = 0; k < 2; k++)
            b->header->names[i][k][BURST_NAME_BYTES - 1] = 0;
    found->known = b->header->sum == burst_header_sum(b->header) && b->header->layout == BURST_LAYOUT && found->state != BURST_UNFINISHED;
    if (found->known)
        burst_survey(b, fd, found);
    return found->state == BURST_WHOLE && found->messages ? burst_note_left(b, fd, now_ns) : 0;
}

/* The name (0) or the address (1) of the listener whose burst is in hand; empty if there is none. */
static inline const char *burst_said(const burst_t *b, int which)
{
    uint32_t listener = atomic_load_explicit(&b->header->listener, memory_order_relaxed);
    return listener < BURST_LISTENERS ? b->header->names[listener][which] : "";
}

#endif
