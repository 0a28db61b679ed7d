/* Rates: no bucket lets more pass than it may whatever comes when, a flood costs nobody else anything, a full table forgets
 * nothing that matters, and the sources are those that they should be. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <unistd.h>

#include "check.h"
#include "source.h"

#define SECOND SOURCE_SECOND
#define START (1000 * SECOND)

static uint64_t random_state = 0x9E3779B97F4A7C15;

static uint64_t random_next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static sources_t *sources_new(uint64_t most)
{
    sources_t *s = aligned_alloc(CACHE_LINE, (sizeof *s + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    memset(s, 0, sizeof *s);
    CHECK(sources_open(s, most) == 0);
    return s;
}

static void sources_free(sources_t *s)
{
    sources_close(s);
    free(s);
}

static source_rules_t rules_of(sources_t *s, double rate, double source_rate, int64_t burst_ns)
{
    return (source_rules_t){.sources = s, .cost_ns = rate > 0 ? 1e9 / rate : 0, .source_cost_ns = source_rate > 0 ? 1e9 / source_rate : 0,
                            .burst_ns = burst_ns, .all = true};
}

/* The metrics that pass, of so many in one message. */
static uint64_t offer(const source_rules_t *rules, uint32_t address, int64_t now_ns, uint64_t metrics)
{
    source_peer_t peer = source_of_ipv4(address);
    if (source_ask(rules, &peer, now_ns) != SOURCE_PASSES)
        return 0;
    source_charge(rules, &peer, now_ns, metrics);
    return metrics;
}

/* ---- the law of a bucket ---- */

/* Random times and messages; for every beginning, what has passed since then is within the law. */
static void check_law(double rate, int64_t burst_ns, int64_t pause_max_ns, uint64_t metrics_max, bool whole)
{
    enum { MESSAGES = 400 };
    sources_t *s = sources_new(64);
    source_rules_t rules = rules_of(s, whole ? rate : 0, whole ? 0 : rate, burst_ns);
    int64_t times[MESSAGES], now_ns = START;
    uint64_t passed[MESSAGES];
    for (int i = 0; i < MESSAGES; i++) {
        now_ns += (int64_t)(random_next() % (uint64_t)pause_max_ns);
        times[i] = now_ns;
        passed[i] = offer(&rules, 1, now_ns, 1 + random_next() % metrics_max);
    }
    bool within = true;
    for (int from = 0; from < MESSAGES; from++) {
        uint64_t total = 0, last = 0; /* the last message may be more than was left */
        for (int to = from; to < MESSAGES; to++) {
            total += passed[to];
            last = passed[to] ? passed[to] : last;
            double most = rate * ((double)(times[to] - times[from] + burst_ns) / 1e9);
            within &= (double)(total - last) <= most + 1e-3;
        }
    }
    CHECK(within);
    sources_free(s);
}

static void test_what_passes_is_within_rate_and_burst(void)
{
    for (int round = 0; round < 40; round++) {
        double rate = (double)(1 + random_next() % 100000);
        int64_t burst_ns = (int64_t)(10000000 + random_next() % (5 * SECOND));
        int64_t pause_ns = (int64_t)(1 + random_next() % (uint64_t)(1 + burst_ns / 20));
        check_law(rate, burst_ns, pause_ns, 1 + random_next() % 500, round & 1);
    }
    check_law(1e9, 10000000, 1000, 3000, false);
    check_law(3e8, 10000000, 1000, 3000, true);
    check_law(1, 3600 * SECOND, SECOND, 10, false);
}

/* What keeps to the rate passes whole, also where the burst is shorter than a message. */
static void test_who_keeps_to_the_rate_loses_nothing(void)
{
    sources_t *s = sources_new(64);
    source_rules_t rules = rules_of(s, 0, 1000, 10000000);
    for (int i = 0; i < 10000; i++)
        CHECK(offer(&rules, 7, START + i * (SECOND / 1000), 1) == 1);
    for (int i = 0; i < 100; i++)
        CHECK(offer(&rules, 8, START + i * SECOND / 2, 500) == 500);
    sources_free(s);
}

/* A whole burst passes at once, then what the rate gives. */
static void test_a_burst_passes_and_then_the_rate(void)
{
    sources_t *s = sources_new(64);
    source_rules_t rules = rules_of(s, 0, 100, SECOND);
    uint64_t at_once = 0, later = 0;
    for (int i = 0; i < 1000; i++)
        at_once += offer(&rules, 1, START, 1);
    CHECK(at_once == 100);
    for (int i = 1; i <= 10000; i++)
        later += offer(&rules, 1, START + i * (SECOND / 1000), 1);
    CHECK(later >= 999 && later <= 1000);
    source_peer_t peer = source_of_ipv4(1);
    int64_t now_ns = START + 10 * SECOND, wait_ns;
    while (offer(&rules, 1, now_ns, 1))
        ;
    wait_ns = source_wait_ns(&rules, &peer, now_ns);
    CHECK(wait_ns > 0 && wait_ns <= SECOND / 100 + 1);
    CHECK(source_wait_ns(&rules, &peer, now_ns + wait_ns) == 0 && source_wait_ns(&rules, &peer, now_ns + wait_ns - 2) > 0);
    sources_free(s);
}

/* A message without a metric was looked at as well, and one that is huge is owed for long, but not for ever. */
static void test_empty_and_huge_messages(void)
{
    sources_t *s = sources_new(64);
    source_rules_t rules = rules_of(s, 0, 10, SECOND);
    source_peer_t peer = source_of_ipv4(1);
    for (int i = 0; i < 10; i++) {
        CHECK(source_ask(&rules, &peer, START) == SOURCE_PASSES);
        source_charge(&rules, &peer, START, 0);
    }
    CHECK(source_ask(&rules, &peer, START) == SOURCE_OVER);
    rules = rules_of(s, 1, 1, 3600 * SECOND);
    source_peer_t huge = source_of_ipv4(2);
    for (int i = 0; i < 5; i++)
        source_charge(&rules, &huge, START, UINT64_MAX);
    int64_t wait_ns = source_wait_ns(&rules, &huge, START);
    CHECK(wait_ns > 0 && wait_ns < 6 * SOURCE_COST_MAX);
    sources_free(s);
}

/* What a metric costs is no whole number of nanoseconds, and is not rounded in anybody's favour. */
static void test_costs_are_rounded_up(void)
{
    sources_t *s = sources_new(64);
    source_rules_t rules = rules_of(s, 3e8, 0, SECOND);
    for (int i = 0; i < 1000; i++)
        CHECK(offer(&rules, 1, START, 1) == 1);
    CHECK(atomic_load(&s->paid_ns) - START == 4000);
    source_peer_t peer = source_of_ipv4(1);
    source_charge(&rules, &peer, START, 3000000);
    CHECK(atomic_load(&s->paid_ns) - START == 4000 + 10000000);
    sources_free(s);
}

/* A clock that goes back gives nothing twice, and nothing stays shut once the time is there again. */
static void test_time_that_goes_back(void)
{
    sources_t *s = sources_new(64);
    source_rules_t rules = rules_of(s, 500, 100, SECOND);
    uint64_t passed = 0;
    for (int i = 0; i < 1000; i++)
        passed += offer(&rules, 1, START, 1);
    CHECK(passed == 100);
    for (int i = 0; i < 1000; i++)
        passed += offer(&rules, 1, START - (int64_t)(random_next() % (500 * (uint64_t)SECOND)), 1);
    CHECK(passed == 100);
    CHECK(offer(&rules, 1, START + SECOND, 1) == 1);
    CHECK(offer(&rules, 2, START + 2 * SECOND, 1) == 1);
    sources_free(s);
}

/* ---- fairness ---- */

/* Good sources at `each` metrics a second beside one that floods, for ten seconds. */
static void check_flood(double rate, double source_rate, uint32_t good, uint32_t each, uint32_t flood, bool first)
{
    sources_t *s = sources_new(16384);
    source_rules_t rules = rules_of(s, rate, source_rate, SECOND);
    uint64_t sent = 0, passed = 0, flooded = 0;
    const int64_t step_ns = SECOND / 10000;
    uint32_t due[1024] = {0};
    for (int64_t t = 0; t < 100000; t++) {
        int64_t now_ns = START + t * step_ns;
        for (uint32_t i = 0; i < flood / 10000; i++)
            flooded += offer(&rules, 0xFFFF, now_ns, 1);
        if (!first && t < 30000)
            continue; /* the flood has been going on for a while */
        for (uint32_t i = 0; i < good; i++) {
            due[i] += each;
            if ((due[i] + i) / 10000 == 0)
                continue;
            due[i] -= 10000;
            sent++;
            passed += offer(&rules, i, now_ns, 1);
        }
    }
    CHECK(passed == sent && sent > 0);
    double most = (rate > 0 ? rate : source_rate) * 11;
    CHECK((double)(rate > 0 ? flooded + passed : flooded) <= most + 1);
    CHECK((double)flooded >= (rate > 0 ? rate - (double)good * each : source_rate) * 9);
    sources_free(s);
}

static void test_a_flood_costs_nobody_else_anything(void)
{
    check_flood(0, 1000, 100, 100, 1000000, true);
    check_flood(0, 1000, 100, 100, 1000000, false);
    check_flood(20000, 0, 100, 100, 1000000, true);
    check_flood(20000, 0, 100, 100, 1000000, false);
    check_flood(20000, 15000, 100, 100, 1000000, false);
    check_flood(200000, 0, 1000, 150, 1000000, false);
}

/* Two that both want more than there is get the same, whatever they send. */
static void test_floods_share_what_is_left(void)
{
    sources_t *s = sources_new(64);
    source_rules_t rules = rules_of(s, 10000, 0, SECOND);
    uint64_t one = 0, other = 0;
    for (int64_t t = 0; t < 100000; t++) {
        int64_t now_ns = START + t * (SECOND / 10000);
        for (int i = 0; i < 40; i++)
            one += offer(&rules, 1, now_ns, 1);
        for (int i = 0; i < 10; i++)
            other += offer(&rules, 2, now_ns, 1);
    }
    CHECK(one + other <= 110001 && one + other >= 99000);
    CHECK(other >= 45000);
    sources_free(s);
}

/* ---- the table ---- */

/* More sources than places: who is within the rate passes as long as there is no other in the same set, the law holds for
 * each, and memory does not grow. */
static void test_a_full_table(void)
{
    sources_t *s = sources_new(16);
    CHECK(s->set_count == 4);
    source_rules_t rules = rules_of(s, 0, 10, SECOND);
    enum { MANY = 1000 };
    static uint64_t passed[MANY];
    for (int64_t t = 0; t < 1000; t++)
        for (uint32_t i = 0; i < MANY; i++)
            passed[i] += offer(&rules, i, START + t * (SECOND / 100), 1);
    uint64_t total = 0, most = 0;
    for (uint32_t i = 0; i < MANY; i++) {
        total += passed[i];
        most = passed[i] > most ? passed[i] : most;
    }
    /* 10 s and a burst, each of 10 metrics: of 16 sources, and of the others of four sets. */
    CHECK(most <= 110 && total <= 20 * 110 && total >= 16 * 100);
    /* Places of those that are silent go to newcomers, with a full bucket. */
    for (uint32_t i = 0; i < 16; i++)
        CHECK(offer(&rules, 100000 + i, START + 100 * SECOND, 1) == 1);
    sources_free(s);
}

/* A place whose bucket is full is given away; who was one of the others until then takes along what they owe. */
static void test_places_that_change_hands(void)
{
    sources_t *s = sources_new(4);
    source_rules_t rules = rules_of(s, 0, 10, SECOND);
    for (uint32_t i = 1; i <= 4; i++)
        CHECK(offer(&rules, i, START, 1) == 1);
    int64_t later_ns = START + 10 * SECOND;
    static const uint64_t debts[] = {100, 100, 100, 11};
    for (uint32_t i = 0; i < 4; i++)
        CHECK(offer(&rules, 11 + i, later_ns, debts[i]) == debts[i]); /* each with a bucket of its own */
    CHECK(offer(&rules, 21, later_ns, 50) == 50 && offer(&rules, 22, later_ns, 1) == 0); /* and these with one together */
    later_ns += 2 * SECOND; /* one of the four is out of debt */
    CHECK(offer(&rules, 21, later_ns, 1) == 0);
    CHECK(offer(&rules, 21, later_ns + 2 * SECOND + 1, 1) == 1);
    sources_free(s);
}

/* Who comes and goes within a full set never gets more than who stays. */
static void test_nobody_gains_by_losing_its_place(void)
{
    sources_t *s = sources_new(4);
    CHECK(s->set_count == 1);
    source_rules_t rules = rules_of(s, 0, 10, SECOND);
    uint64_t passed = 0;
    int64_t now_ns = START;
    for (int i = 0; i < 20000; i++) {
        now_ns += (int64_t)(random_next() % (SECOND / 100));
        passed += offer(&rules, 1, now_ns, 1);
        for (int k = 0; k < 8; k++)
            offer(&rules, 2 + (uint32_t)(random_next() % 10), now_ns, 1 + random_next() % 3);
    }
    CHECK((double)passed <= 10 * ((double)(now_ns - START) / 1e9 + 1) + 1);
    sources_free(s);
}

/* ---- who it is ---- */

static source_peer_t peer_of(const char *text)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6};
    struct sockaddr_in four = {.sin_family = AF_INET};
    if (inet_pton(AF_INET, text, &four.sin_addr) == 1)
        return source_of_address(&four, sizeof four);
    CHECK(inet_pton(AF_INET6, text, &six.sin6_addr) == 1);
    return source_of_address(&six, sizeof six);
}

static bool same_source(const char *one, const char *other)
{
    source_peer_t a = peer_of(one), b = peer_of(other);
    source_key_t first = source_key(&a), second = source_key(&b);
    return first.kind == second.kind && first.value == second.value;
}

static void test_what_is_one_source(void)
{
    CHECK(same_source("192.0.2.1", "192.0.2.1") && !same_source("192.0.2.1", "192.0.2.2"));
    CHECK(same_source("192.0.2.1", "::ffff:192.0.2.1") && peer_of("::ffff:1.2.3.4").kind == SOURCE_IPV4);
    CHECK(same_source("2001:db8:0:1::1", "2001:db8:0:1:ffff::2") && !same_source("2001:db8:0:1::1", "2001:db8:0:2::1"));
    CHECK(same_source("fe80::1", "fe80::1") && !same_source("fe80::1", "fe80::2") && !same_source("fe80::1", "fec0::1"));
    CHECK(!same_source("::1", "0.0.0.1") && peer_of("::1").kind == SOURCE_IPV6);
    struct sockaddr_in four = {.sin_family = AF_INET};
    CHECK(source_of_address(&four, 3).kind == SOURCE_UNKNOWN && source_of_address(NULL, 0).kind == SOURCE_UNKNOWN);
    CHECK(source_of_process(0).kind == SOURCE_UNKNOWN && source_of_process(7).kind == SOURCE_PROCESS);
}

/* What the kernel says of datagrams and connections. */
static void test_processes_and_addresses_of_the_kernel(void)
{
    int pair[2], on = 1;
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0 && write(pair[1], "x", 1) == 1);
    char text[8];
    struct iovec vector = {text, sizeof text};
    _Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(sizeof(struct ucred))];
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    CHECK(recvmsg(pair[0], &message, 0) == 1);
    source_peer_t peer = source_of_message(&message, true);
    CHECK(peer.kind == SOURCE_PROCESS && peer.low == (uint64_t)getpid());
    message.msg_controllen = 0;
    CHECK(source_of_message(&message, true).kind == SOURCE_UNKNOWN);
    CHECK(source_is_local(pair[0]));
    close(pair[0]);
    close(pair[1]);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    peer = source_of_connection(pair[0]);
    CHECK(peer.kind == SOURCE_PROCESS && peer.low == (uint64_t)getpid());
    close(pair[0]);
    close(pair[1]);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in bound = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof bound;
    CHECK(bind(fd, (struct sockaddr *)&bound, sizeof bound) == 0 && getsockname(fd, (struct sockaddr *)&bound, &size) == 0);
    CHECK(sendto(fd, "x", 1, 0, (struct sockaddr *)&bound, size) == 1 && !source_is_local(fd));
    struct sockaddr_in6 from;
    message.msg_name = &from;
    message.msg_namelen = sizeof from;
    CHECK(recvmsg(fd, &message, 0) == 1);
    peer = source_of_message(&message, false);
    CHECK(peer.kind == SOURCE_IPV4 && peer.low == INADDR_LOOPBACK);
    close(fd);
    CHECK(source_of_connection(fd).kind == SOURCE_UNKNOWN);
}

static void test_who_may_send(void)
{
    static const source_network_t four[] = {{0, 0x0A000000, 0, 0x0AFFFFFF}, {0, 0xC0000200, 0, 0xC0000200}};
    static const source_network_t six[] = {{0x20010DB800000000, 0, 0x20010DB8FFFFFFFF, UINT64_MAX}};
    sources_t *s = sources_new(16);
    source_rules_t rules = {.sources = s, .ipv4 = {four, 2}, .ipv6 = {six, 1}};
    static const struct {
        const char *peer;
        bool allowed;
    } cases[] = {
        {"10.0.0.0", true},          {"10.255.255.255", true}, {"9.255.255.255", false}, {"11.0.0.0", false},
        {"192.0.2.0", true},         {"192.0.2.1", false},     {"192.0.1.255", false},   {"::ffff:10.1.2.3", true},
        {"2001:db8::1", true},       {"2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", true},   {"2001:db7:ffff::", false},
        {"2001:db9::", false},       {"::a00:0", false},       {"fe80::1", false},       {"0.0.0.0", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        source_peer_t peer = peer_of(cases[i].peer);
        CHECK(source_ask(&rules, &peer, START) == (cases[i].allowed ? SOURCE_PASSES : SOURCE_DENIED));
    }
    source_peer_t unknown = {0, 0, SOURCE_UNKNOWN};
    CHECK(source_ask(&rules, &unknown, START) == SOURCE_DENIED);
    rules.all = true;
    CHECK(source_ask(&rules, &unknown, START) == SOURCE_PASSES);
    rules = (source_rules_t){.sources = s};
    source_peer_t peer = peer_of("10.0.0.0");
    CHECK(source_ask(&rules, &peer, START) == SOURCE_DENIED);
    sources_free(s);
}

/* ---- who lost most ---- */

static void test_the_heaviest_losers_are_told(void)
{
    sources_t *s = sources_new(16);
    source_loser_t found[SOURCE_LOSERS];
    CHECK(source_losers(s, found) == 0);
    for (uint32_t round = 0; round < 1000; round++) {
        source_peer_t heavy = source_of_ipv4(1), denied = source_of_ipv4(2);
        source_lose(s, &heavy, SOURCE_OVER, 50);
        source_lose(s, &denied, SOURCE_DENIED, 20);
        source_peer_t light = source_of_ipv4(1000 + round);
        source_lose(s, &light, SOURCE_OVER, 1);
    }
    uint32_t count = source_losers(s, found), seen = 0;
    CHECK(count == SOURCE_LOSERS);
    for (uint32_t i = 0; i < count; i++) {
        if (found[i].key.value == 1)
            seen += found[i].why == SOURCE_OVER && found[i].lost == 50000 && found[i].error == 0;
        if (found[i].key.value == 2)
            seen += found[i].why == SOURCE_DENIED && found[i].lost == 20000 && found[i].error == 0;
    }
    CHECK(seen == 2);
    sources_free(s);
}

static void test_a_run_is_asked_once_and_lost_whole(void)
{
    sources_t *s = sources_new(16);
    source_rules_t rules = rules_of(s, 0, 1, SECOND);
    source_loser_t found[SOURCE_LOSERS];
    source_run_t run = {0};
    source_peer_t one = peer_of("10.0.0.1"), other = peer_of("10.0.0.2");
    CHECK(source_ask_in_run(&rules, &run, &one, START) == SOURCE_PASSES);
    source_charge(&rules, &one, START, 1);
    for (int i = 0; i < 5; i++) {
        CHECK(source_ask_in_run(&rules, &run, &one, START) == SOURCE_OVER);
        source_run_lose(&run, &one, SOURCE_OVER, 3);
    }
    CHECK(source_losers(s, found) == 0);
    CHECK(source_ask_in_run(&rules, &run, &other, START) == SOURCE_PASSES);
    CHECK(source_losers(s, found) == 1 && found[0].lost == 15);
    CHECK(source_ask_in_run(&rules, &run, &one, START) == SOURCE_OVER);
    source_run_lose(&run, &one, SOURCE_OVER, 1);
    source_run_end(&rules, &run);
    source_run_end(&rules, &run);
    CHECK(source_losers(s, found) == 1 && found[0].lost == 16);
    sources_free(s);
}

/* ---- threads ---- */

#define THREADS 4
#define EACH 50000

static sources_t *shared;
static source_rules_t shared_rules;

static void *run_thread(void *number)
{
    uint64_t *passed = calloc(1, sizeof *passed);
    for (uint32_t i = 0; i < EACH; i++) {
        *passed += offer(&shared_rules, i % 8, START + i, 1);
        source_peer_t peer = source_of_ipv4(i % 200);
        source_lose(shared, &peer, SOURCE_OVER, 1);
    }
    return passed;
}

/* Lanes share the buckets: together they let no more pass than one would, and one message each. */
static void test_threads_share_the_buckets(void)
{
    pthread_t threads[THREADS];
    shared = sources_new(4096); /* so that no set is full, wherever the hashes fall */
    for (int whole = 0; whole < 2; whole++) {
        uint64_t total = 0;
        shared_rules = rules_of(shared, whole ? 1000 : 0, whole ? 0 : 1000, SECOND);
        for (intptr_t i = 0; i < THREADS; i++)
            pthread_create(&threads[i], NULL, run_thread, (void *)i);
        for (int i = 0; i < THREADS; i++) {
            void *passed;
            pthread_join(threads[i], &passed);
            total += *(uint64_t *)passed;
            free(passed);
        }
        CHECK(total <= (whole ? 1000 : 8 * 1000) + THREADS * 8 && total >= (whole ? 500 : 8 * 1000));
    }
    source_loser_t found[SOURCE_LOSERS];
    uint64_t lost = 0;
    uint32_t count = source_losers(shared, found);
    for (uint32_t i = 0; i < count; i++)
        lost += found[i].lost;
    CHECK(lost == 2 * (uint64_t)THREADS * EACH);
    sources_free(shared);
}

int main(void)
{
#ifndef __SANITIZE_THREAD__ /* they have one thread, and take it a minute */
    test_what_passes_is_within_rate_and_burst();
    test_who_keeps_to_the_rate_loses_nothing();
    test_a_burst_passes_and_then_the_rate();
    test_empty_and_huge_messages();
    test_costs_are_rounded_up();
    test_time_that_goes_back();
    test_a_flood_costs_nobody_else_anything();
    test_floods_share_what_is_left();
    test_a_full_table();
    test_places_that_change_hands();
    test_nobody_gains_by_losing_its_place();
    test_what_is_one_source();
    test_processes_and_addresses_of_the_kernel();
    test_who_may_send();
    test_the_heaviest_losers_are_told();
    test_a_run_is_asked_once_and_lost_whole();
#endif
    test_threads_share_the_buckets();
    return check_report("test_source");
}
