/* Rings that outlive their process: killed at every instruction, killed at random, damaged in every way.
 *
 * Records carry their number and bytes that follow from it. A shared page tells what the writer had finished and what
 * the reader had begun to free when the process ended; all in between must be in the file, whole and in order. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#define RING_SLOTS 16u /* the half of them is soon waiting, so that runs stay open between bursts */

#define RING_SUM_BYTES 256u
#define RING_SUM_LAG 128u

#include "check.h"
#include "ring_adopt.h"

#define CAPACITY 4096u /* full before the slots are used up, if bursts are large */

static const uint8_t boot[RING_BOOT_BYTES] = "this machine   ";
static sum_lanes_fn kernel;

/* What a process leaves behind beside the ring. */
typedef struct {
    _Atomic uint64_t begun, written; /* records up to which the writer has begun, has finished */
    _Atomic uint64_t freeing;        /* records up to which the reader has begun to free */
    _Atomic uint64_t generation;
} progress_t;

static progress_t *progress;

static uint32_t record_bytes(uint32_t i)
{
    return 8 + (i * 2654435761u >> 16) % 120;
}

static void put_record(uint8_t *to, uint32_t i)
{
    memcpy(to, &i, 4);
    memset(to + 4, (int)(i & 0xFF), record_bytes(i) - 4);
}

/* Checks that n bytes are `metrics` whole records from number `i` on; returns the number behind them. With any, the
 * first number is taken as it is. */
static uint32_t check_records(const uint8_t *p, uint64_t n, uint64_t metrics, uint32_t i, bool any)
{
    uint64_t at = 0;
    for (uint64_t k = 0; k < metrics; k++, i++) {
        uint32_t number;
        CHECK(at + 8 <= n);
        memcpy(&number, p + at, 4);
        if (k == 0 && any)
            i = number;
        if (number != i || at + record_bytes(i) > n) {
            CHECK(number == i);
            CHECK(!"a record is cut");
            return i;
        }
        for (uint32_t j = 4; j < record_bytes(i); j++)
            if (p[at + j] != (uint8_t)i)
                CHECK(!"bytes of another record");
        at += record_bytes(i);
    }
    CHECK(at == n);
    return i;
}

static ring_t *ring_memory(void)
{
    ring_t *r = aligned_alloc(CACHE_LINE, (sizeof *r + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    memset(r, 0, sizeof *r);
    r->wake_fd = -1;
    r->slot_bytes_max = 512;
    r->slot_metrics_max = 5;
    r->sum = kernel;
    return r;
}

static void ring_forget(ring_t *r)
{
    ring_close(r);
    free(r);
}

static ring_t *new_ring(int *fd)
{
    ring_t *r = ring_memory();
    *fd = memfd_create("ring", 0);
    r->encoding = RING_PB;
    if (*fd < 0 || ring_open(r, *fd, CAPACITY, boot, 17))
        abort();
    return r;
}

static ring_t *adopt(int fd, ring_findings_t *found)
{
    ring_t *r = ring_memory();
    CHECK(ring_adopt(r, fd, boot, found) == 0);
    return r;
}

/* One burst of up to `count` records; false where the ring is full. */
static bool burst(ring_t *r, uint32_t count)
{
    uint32_t i = (uint32_t)progress->begun;
    ring_begin(r);
    for (; count > 0; count--, i++) {
        uint8_t *to = ring_reserve(r, record_bytes(i));
        if (to == NULL)
            break;
        progress->begun = i + 1;
        put_record(to, i);
        ring_commit(r, record_bytes(i), 1, 1000 + i);
    }
    ring_end(r);
    progress->written = i;
    return count == 0;
}

/* Takes one batch and frees it. */
static bool take(ring_t *r, uint64_t metrics_max)
{
    ring_batch_t batch;
    if (!ring_take(r, 100000, metrics_max, true, &batch))
        return false;
    uint32_t first;
    memcpy(&first, batch.bytes, 4);
    progress->freeing = first + batch.metrics;
    ring_free(r, &batch);
    return true;
}

/* What is in the ring of a process that has ended just now must be all between `freeing` and `written`, at least. */
static void check_left(ring_t *r)
{
    uint64_t written = progress->written, freeing = progress->freeing;
    uint32_t i = 0;
    bool first = true;
    ring_batch_t batch;
    while (ring_take(r, 100000, 7, true, &batch)) {
        i = check_records(batch.bytes, batch.length, batch.metrics, i, first);
        if (first) {
            uint32_t number;
            memcpy(&number, batch.bytes, 4);
            CHECK(number <= freeing);
            first = false;
        }
        if (r->out_count == RING_OUT_MAX)
            abort();
    }
    CHECK(first ? written <= freeing : i >= written && i <= progress->begun);
}

/* The same without adopting, for a ring whose process is stopped: `r` is mapped, whatever happens to the file. */
static void check_stopped(ring_t *r, uint64_t size)
{
    ring_findings_t found = {0};
    const ring_note_t *note = NULL;
    uint64_t written = progress->written, freeing = progress->freeing;
    CHECK(ring_judge(r->header, size, boot) == RING_WHOLE);
    ring_survey(r, &found, &note);
    CHECK(found.state == RING_WHOLE);
    uint64_t head = r->header->head, tail = r->header->tail;
    uint32_t i = 0;
    bool first = true;
    for (uint64_t at = tail; at != head + (note != NULL); at++) {
        const ring_slot_t *slot = at == head ? &note->slot : &r->slots[at % RING_SLOTS];
        const uint8_t *bytes = r->data + slot->position % r->capacity;
        if (first) {
            uint32_t number;
            memcpy(&number, bytes, 4);
            CHECK(number <= freeing);
        }
        i = check_records(bytes, slot->length, slot->metrics, i, first);
        first = false;
    }
    CHECK(first ? written <= freeing : i >= written && i <= progress->begun);
}

/* ---- what is found ---- */

static void test_goes_on_where_it_was(void)
{
    int fd;
    ring_findings_t found;
    ring_t *r = new_ring(&fd);
    *progress = (progress_t){0};
    for (int turn = 0; turn < 200; turn++) {
        burst(r, 1 + turn % 9);
        if (turn % 3)
            take(r, 1 + turn % 11);
        uint64_t waiting = counter_get(&r->restored) + counter_get(&r->written) - counter_get(&r->freed);
        waiting += r->run_metrics;
        ring_forget(r);
        r = adopt(fd, &found);
        CHECK(found.state == RING_WHOLE && found.metrics == waiting && found.torn_runs == 0);
        CHECK(counter_get(&r->restored) == waiting && counter_get(&r->published_metrics) == waiting);
        CHECK(r->encoding == RING_PB && r->capacity == CAPACITY);
    }
    check_left(r);
    ring_forget(r);
    close(fd);
}

/* What was adopted is of nobody that is known, and not of this process. */
static void test_what_is_adopted_is_not_its_own(void)
{
    int fd;
    ring_findings_t found;
    ring_t *r = new_ring(&fd);
    *progress = (progress_t){0};
    ring_from(r, 7);
    burst(r, 3);
    ring_forget(r);
    r = adopt(fd, &found);
    CHECK(found.state == RING_WHOLE && r->own_from == r->head_own && r->own_from > 0);
    CHECK(r->listeners[0] == RING_SEVERAL);
    CHECK(ring_young(r, 0) == 0);
    ring_from(r, 7);
    burst(r, 2);
    CHECK(ring_young(r, 0) == 2);
    CHECK(r->listeners[r->own_from % RING_SLOTS] == 7);
    ring_forget(r);
    close(fd);
}

static void test_a_run_that_was_open_is_found_at_its_longest(void)
{
    int fd;
    ring_findings_t found;
    ring_t *r = new_ring(&fd);
    *progress = (progress_t){0};
    r->slot_metrics_max = 1000;
    r->slot_bytes_max = 100000;
    while (ring_slots_used(r) < RING_SLOTS / 2)
        burst(r, 1);
    for (uint32_t k = 0; k < 5; k++) {
        burst(r, 1);
        CHECK(r->run_metrics == k + 1);
        ring_t *other = adopt(dup(fd), &found);
        CHECK(found.metrics == RING_SLOTS / 2 + k + 1);
        /* Not for good: the writer lives. */
        other->header->head = RING_SLOTS / 2;
        ring_forget(other);
    }
    ring_forget(r);
    r = adopt(fd, &found);
    check_left(r);
    ring_forget(r);
    /* Published now, so it is not there twice. */
    r = adopt(fd, &found);
    CHECK(found.metrics == RING_SLOTS / 2 + 5 && found.runs == RING_SLOTS / 2 + 1);
    for (uint64_t at = 0; at < RING_SLOTS; at++)
        CHECK(ring_slot_marked(r, at) == (at <= RING_SLOTS / 2)); /* the open one, too, and no other */
    ring_forget(r);
    close(fd);
}

static void test_what_is_no_ring_of_ours_is_named(void)
{
    int fd;
    ring_findings_t found;
    ring_t *r = new_ring(&fd);
    *progress = (progress_t){0};
    burst(r, 20);
    ring_header_t *h = r->header, good = *r->header;
    const struct {
        size_t offset;
        uint64_t value;
        ring_state_t state;
    } cases[] = {
        {offsetof(ring_header_t, magic), 0, RING_FOREIGN},
        {offsetof(ring_header_t, magic), 1, RING_FOREIGN},
        {offsetof(ring_header_t, layout), 1, RING_OLDER},
        {offsetof(ring_header_t, boot_id), 1, RING_OLDER},
        {offsetof(ring_header_t, capacity), CAPACITY / 2, RING_TORN},
        {offsetof(ring_header_t, slots), 3, RING_TORN},
        {offsetof(ring_header_t, encoding), 0, RING_TORN},
        {offsetof(ring_header_t, created_ns), 0, RING_TORN},
        {offsetof(ring_header_t, head), RING_SLOTS + 1, RING_TORN},
        {offsetof(ring_header_t, tail), 1000, RING_TORN},
        {offsetof(ring_header_t, sum), 0, RING_TORN},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        memcpy((uint8_t *)h + cases[k].offset, &cases[k].value, 8);
        ring_t *other = adopt(fd, &found);
        CHECK(found.state == cases[k].state && !found.salvageable && other->header == NULL);
        ring_forget(other);
        *h = good;
    }
    h->capacity = CAPACITY * 2;
    h->sum = ring_header_sum(h);
    ring_forget(adopt(fd, &found));
    CHECK(found.state == RING_FOREIGN);
    *h = good;
    CHECK(ftruncate(fd, (off_t)(ring_head_bytes() + CAPACITY - 1)) == 0);
    ring_forget(adopt(fd, &found));
    CHECK(found.state == RING_FOREIGN);
    CHECK(ftruncate(fd, 100) == 0);
    ring_forget(adopt(fd, &found));
    CHECK(found.state == RING_OLDER || found.state == RING_TORN || found.state == RING_FOREIGN);
    CHECK(ftruncate(fd, 0) == 0);
    ring_forget(adopt(fd, &found));
    CHECK(found.state == RING_UNFINISHED);
    ring_forget(r);
    close(fd);
}

/* Salvages what is in the file; returns the new ring. */
static ring_t *salvage(int fd, ring_findings_t *found)
{
    ring_t *from = ring_memory(), *to = NULL;
    const ring_note_t *note = NULL;
    int other;
    CHECK(ring_examine(from, fd, PROT_READ, boot, found, &note) == 0);
    if (found->salvageable && found->state == RING_TORN) {
        to = new_ring(&other);
        ring_salvage(to, from, note, found);
        close(other);
    }
    ring_forget(from);
    return to;
}

static void test_whole_runs_among_torn_ones_are_saved(void)
{
    int fd;
    ring_findings_t found;
    ring_t *r = new_ring(&fd);
    *progress = (progress_t){0};
    for (int k = 0; k < 15; k++) {
        burst(r, 3);
        ring_publish(r);
    }
    r->data[r->slots[4].position + 10] ^= 1;
    r->slots[9].metrics = 2;
    r->slots[12].position += 1;
    ring_t *other = adopt(fd, &found);
    CHECK(found.state == RING_TORN && found.salvageable && found.torn_runs == 3 && found.torn_metrics == 8);
    CHECK(found.runs == 12 && found.metrics == 36 && other->header == NULL);
    ring_forget(other);
    other = salvage(fd, &found);
    ring_batch_t batch;
    uint32_t expected = 0, seen = 0;
    while (ring_take(other, 1, 1, true, &batch)) {
        for (; expected == 12 || expected == 27 || expected == 36; expected += 3)
            ;
        CHECK(batch.metrics == 3 && batch.oldest_ns == 1000 + expected);
        expected = check_records(batch.bytes, batch.length, 3, expected, false);
        seen += 3;
    }
    CHECK(seen == 36);
    ring_forget(other);
    ring_forget(r);
    close(fd);
}

static void test_a_sum_sees_every_change(void)
{
    int fd;
    ring_findings_t found;
    const ring_note_t *note;
    ring_t *r = new_ring(&fd);
    *progress = (progress_t){0};
    burst(r, 5);
    ring_slot_t *slot = &r->slots[0];
    uint8_t *bytes = r->data, copy[4096];
    memcpy(copy, bytes, slot->length);
#define UNNOTICED (memset(&found, 0, sizeof found), ring_survey(r, &found, &note), found.torn_runs == 0)
    CHECK(UNNOTICED && found.runs == 1);
    for (uint32_t bit = 0; bit < 8 * slot->length; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK(!UNNOTICED);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (uint32_t bit = 0; bit < 8 * sizeof *slot; bit++) {
        ((uint8_t *)slot)[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK(!UNNOTICED);
        ((uint8_t *)slot)[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (uint32_t a = 0; a + 8 <= slot->length; a += 8)
        for (uint32_t b = a + 8; b + 8 <= slot->length; b += 8) {
            memcpy(bytes + a, copy + b, 8);
            memcpy(bytes + b, copy + a, 8);
            CHECK(memcmp(bytes, copy, slot->length) == 0 || !UNNOTICED);
            memcpy(bytes, copy, slot->length);
        }
    for (uint32_t a = 0; a < slot->length; a++) {
        memset(bytes + a, 0, slot->length - a);
        CHECK(!UNNOTICED);
        memcpy(bytes, copy, slot->length);
    }
    CHECK(UNNOTICED);
    ring_forget(r);
    close(fd);
}

static void test_kernels_agree(void)
{
    uint8_t bytes[1024 + PORT_PADDING];
    for (uint32_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 2654435761u >> 24);
    for (uint32_t n = 0; n < 1016; n++)
        for (uint32_t at = 0; at < 8; at += 3) {
            uint64_t sum = sum_bytes(sum_lanes_scalar, bytes + at, n, n);
            CHECK(sum == sum_bytes(sum_lanes_sse2, bytes + at, n, n) && sum == sum_bytes(kernel, bytes + at, n, n));
        }
}

/* Pages and blocks that change places, or are there twice. */
static void test_a_sum_sees_blocks_that_move(void)
{
    static uint8_t bytes[65536 + PORT_PADDING], copy[65536 + PORT_PADDING];
    for (uint32_t i = 0; i < sizeof bytes; i++)
        bytes[i] = copy[i] = (uint8_t)((i * 2654435761u >> 24) % 96 + 32);
    uint64_t sum = sum_bytes(kernel, bytes, 65536, 1);
    for (uint32_t size = 8; size <= 4096; size *= 2)
        for (uint32_t a = 0; a + size <= 65536; a += 4096 + size)
            for (uint32_t b = a + size; b + size <= 65536; b += 8192 + 3 * size) {
                memcpy(bytes + a, copy + b, size);
                CHECK(sum_bytes(kernel, bytes, 65536, 1) != sum);
                memcpy(bytes + b, copy + a, size);
                CHECK(sum_bytes(kernel, bytes, 65536, 1) != sum);
                memcpy(bytes, copy, sizeof bytes);
            }
    for (uint32_t step = 0; step < SUM_STEPS; step++)
        for (uint32_t i = 0; i < 16; i++)
            CHECK(sum_keys[step][i] & 1);
}

/* ---- killed at every instruction ---- */

/* Leaves a run open. */
static void leave_open(ring_t *r)
{
    while (ring_slots_used(r) < RING_SLOTS / 2 && burst(r, 1))
        ;
    while (r->run_metrics == 0 && burst(r, 1))
        ;
    CHECK(r->run_metrics > 0);
}

/* Everything that a writer and a reader do, in one thread: runs closed by their limits and by the end of a burst, open
 * ones, a full ring, the end of the data, jumps to the beginning. */
static void live_through(ring_t *r)
{
    for (int round = 0; round < 2; round++) {
        for (int k = 0; k < 6; k++)
            burst(r, 1 + k % 3);
        leave_open(r);
        for (int k = 0; k < 3; k++)
            burst(r, 2);
        ring_publish(r);
        take(r, 20);
        if (round == 0)
            while (take(r, 50))
                ;
    }
    while (burst(r, 40))
        ;
    while (ring_slots_used(r) > RING_SLOTS / 4)
        take(r, 10);
    leave_open(r);
}

/* Runs `live` in a process of its own and looks at the ring after each of its instructions. */
static bool step_through(int fd, void (*live)(int fd))
{
    ring_t *seen = ring_memory();
    ring_findings_t found;
    const ring_note_t *note = NULL;
    struct stat status;
    CHECK(fstat(fd, &status) == 0 && ring_examine(seen, fd, PROT_READ, boot, &found, &note) == 0);
    pid_t child = fork();
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
            _exit(77);
        raise(SIGSTOP);
        live(fd);
        _exit(0);
    }
    int state;
    long steps = 0;
    while (waitpid(child, &state, 0) == child && WIFSTOPPED(state)) {
        check_stopped(seen, (uint64_t)status.st_size);
        if (ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) < 0)
            break;
        steps++;
    }
    ring_forget(seen);
    if (WIFEXITED(state) && WEXITSTATUS(state) == 77) {
        printf("not stepped through: ptrace is not allowed here\n");
        return false;
    }
    CHECK(WIFEXITED(state) && WEXITSTATUS(state) == 0 && steps > 10000);
    return true;
}

static ring_t *inherited;

static void live_on(int fd)
{
    (void)fd;
    live_through(inherited);
    _exit(check_failed ? 1 : 0);
}

static void adopt_and_live(int fd)
{
    ring_findings_t found;
    ring_t *r = ring_memory();
    if (ring_adopt(r, fd, boot, &found) || found.state != RING_WHOLE)
        _exit(1);
    while (burst(r, 2))
        ;
    for (int k = 0; k < 3; k++) {
        take(r, 5);
        burst(r, 2);
    }
    while (ring_slots_used(r) > RING_SLOTS / 4)
        take(r, 10);
    leave_open(r);
    _exit(check_failed ? 1 : 0);
}

static void test_killed_at_every_instruction(void)
{
    int fd;
    inherited = new_ring(&fd);
    *progress = (progress_t){0};
    if (step_through(fd, live_on)) {
        /* Killed with a run open, and again while and after it was adopted. */
        for (int k = 0; k < 2; k++)
            step_through(fd, adopt_and_live);
        ring_findings_t found;
        ring_t *r = adopt(fd, &found);
        CHECK(found.state == RING_WHOLE);
        check_left(r);
        ring_forget(r);
    }
    ring_forget(inherited);
    close(fd);
}

/* ---- killed at random, with both threads at work ---- */

static void *write_on(void *argument)
{
    ring_t *r = argument;
    for (uint32_t k = 0;; k++)
        if (!burst(r, 1 + k % 13))
            sched_yield();
    return NULL;
}

static void test_killed_at_random(void)
{
    int fd;
    ring_forget(new_ring(&fd));
    *progress = (progress_t){0};
    uint32_t seed = 1;
    for (int generation = 0; generation < 200; generation++) {
        pid_t child = fork();
        if (child == 0) {
            ring_findings_t found;
            ring_t *r = ring_memory();
            if (ring_adopt(r, fd, boot, &found) || found.state != RING_WHOLE)
                _exit(1);
            check_left(r);
            if (check_failed)
                _exit(2);
            /* Taken to be looked at, not freed: begin again. */
            ring_forget(r);
            r = ring_memory();
            if (ring_adopt(r, fd, boot, &found))
                _exit(3);
            uint64_t next = r->head_own == r->taken ? progress->freeing : 0;
            for (uint64_t at = r->taken; at != r->head_own; at++) {
                const ring_slot_t *slot = &r->slots[at % RING_SLOTS];
                uint32_t first;
                memcpy(&first, r->data + slot->position % r->capacity, 4);
                next = first + slot->metrics;
            }
            progress->begun = progress->written = next;
            progress->generation = (uint64_t)generation + 1;
            pthread_t writer;
            pthread_create(&writer, NULL, write_on, r);
            for (uint32_t k = 0;; k++)
                if (!take(r, 1 + k % 40))
                    sched_yield();
        }
        while (progress->generation <= (uint64_t)generation && waitpid(child, NULL, WNOHANG) == 0)
            sched_yield();
        seed = seed * 1664525u + 1013904223u;
        uint64_t until = progress->begun + (seed >> 16) % 3000;
        while (progress->begun < until && waitpid(child, NULL, WNOHANG) == 0)
            ;
        kill(child, SIGKILL);
        int state = 0;
        waitpid(child, &state, 0);
        CHECK(progress->generation == (uint64_t)generation + 1);
    }
    close(fd);
}

/* ---- damaged ---- */

static uint32_t draw(uint32_t below)
{
    static uint64_t seed = 1;
    seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (uint32_t)(seed >> 33) % below;
}

static void test_any_bytes(void)
{
    int fd;
    ring_t *r = new_ring(&fd);
    *progress = (progress_t){0};
    for (int k = 0; k < 40; k++) {
        burst(r, 1 + k % 7);
        if (k % 4 == 0)
            take(r, 9);
    }
    size_t size = ring_head_bytes() + CAPACITY, head = ring_head_bytes();
    uint8_t *good = malloc(size);
    CHECK(pread(fd, good, size, 0) == (ssize_t)size);
    int copy = memfd_create("copy", 0);
    uint64_t states[RING_TORN + 1] = {0};
    for (int turn = 0; turn < 20000; turn++) {
        CHECK(ftruncate(copy, (off_t)size) == 0 && pwrite(copy, good, size, 0) == (ssize_t)size);
        uint32_t changes = 1 + draw(3);
        for (uint32_t k = 0; k < changes; k++) {
            /* Mostly where it matters: header, slots, data in use. */
            uint32_t where = draw(4), at;
            at = where == 0 ? draw(512) : where == 1 ? 4096 + draw(RING_SLOTS * 32) : (uint32_t)head + draw(CAPACITY);
            uint32_t bits = draw(UINT32_MAX), shift = draw(33);
            uint64_t value = draw(3) ? (uint64_t)bits << shift : draw(2) ? UINT64_MAX : 0;
            size_t n = 1 + draw(8);
            CHECK(pwrite(copy, &value, n, at) == (ssize_t)n);
        }
        bool reseal = draw(4) == 0;
        if (reseal) { /* somebody who knows how sums are made: lengths must not be trusted even then */
            ring_header_t h;
            CHECK(pread(copy, &h, sizeof h, 0) == sizeof h);
            h.magic = RING_MAGIC;
            h.layout = RING_LAYOUT;
            memcpy(h.boot_id, boot, sizeof boot);
            h.sum = ring_header_sum(&h);
            CHECK(pwrite(copy, &h, sizeof h, 0) == sizeof h);
        }
        if (draw(16) == 0)
            CHECK(ftruncate(copy, draw((uint32_t)(2 * size))) == 0);
        ring_findings_t found;
        ring_t *other = salvage(copy, &found);
        ring_batch_t batch;
        if (other != NULL) {
            for (; ring_take(other, 1, 1, true, &batch); ring_free(other, &batch))
                check_records(batch.bytes, batch.length, batch.metrics, 0, true);
            ring_forget(other);
        }
        other = adopt(copy, &found);
        states[found.state]++;
        if (found.state == RING_WHOLE) {
            bool first = true;
            uint32_t i = 0;
            for (; ring_take(other, 1, 1, true, &batch); ring_free(other, &batch), first = false)
                i = check_records(batch.bytes, batch.length, batch.metrics, i, first);
            /* And it can be used. */
            progress->begun = 500;
            CHECK(burst(other, 20));
        }
        ring_forget(other);
    }
    CHECK(states[RING_WHOLE] > 100 && states[RING_FOREIGN] > 100 && states[RING_OLDER] > 100 && states[RING_TORN] > 100);
    free(good);
    ring_forget(r);
    close(copy);
    close(fd);
}

int main(void)
{
    kernel = sum_lanes_best();
    progress = mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    test_kernels_agree();
    test_a_sum_sees_blocks_that_move();
    test_goes_on_where_it_was();
    test_what_is_adopted_is_not_its_own();
    test_a_run_that_was_open_is_found_at_its_longest();
    test_what_is_no_ring_of_ours_is_named();
    test_whole_runs_among_torn_ones_are_saved();
    test_a_sum_sees_every_change();
    test_killed_at_every_instruction();
    test_killed_at_random();
    test_any_bytes();
    return check_report("ring, adopted");
}
