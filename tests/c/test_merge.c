/* Merging lines, in memory of its exact size: good bodies, and such as are damaged anywhere. What the result must be is told
 * by tests/property/test_merge.py. */
#include "check.h"
#include "merge.h"

static const char body[] = "cpu,host=a idle=1 17\ncpu,host=a busy=2 17\nmem,b=\\=1,c=d text=\"a,\\\"b\n c\",v=1 18\n"
                           "cpu,host=a idle=3 17\nmem,c=d,b=\\=1 v=2i 18\ncpu idle=1 17\nm\\ x,k\\,=1\\ 2 f\\=1=t 9\nm\\ x,k\\,=1\\ 2 f\\=1=f 9\n";

static bool merge(const uint8_t *p, uint64_t n, bool nudge, uint64_t *length, uint64_t *lines)
{
    uint8_t *text = calloc(1, n + PORT_PADDING), *to = malloc(merge_room(n));
    memcpy(text, p, n);
    bool changed = merge_lines(text, n, nudge, to, length, lines);
    if (changed)
        CHECK(*length <= merge_room(n) && line_count(to, *length) == *lines);
    free(text);
    free(to);
    return changed;
}

int main(void)
{
    uint64_t length, lines, n = sizeof body - 1, random = 88172645463325252u;
    CHECK(merge((const uint8_t *)body, n, false, &length, &lines) && lines == 4);
    CHECK(merge((const uint8_t *)body, n, true, &length, &lines) && lines == 7);
    for (uint64_t cut = 0; cut <= n; cut++)
        merge((const uint8_t *)body, cut, cut % 2, &length, &lines);
    for (uint32_t i = 0; i < 100000; i++) {
        uint8_t *exact = malloc(n);
        memcpy(exact, body, n);
        for (uint32_t k = 0; k < 1 + i % 3; k++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            exact[random % n] = (uint8_t)" ,=\\\"\n1icpa"[(random >> 40) % 12];
        }
        merge(exact, n, i % 2, &length, &lines);
        free(exact);
    }
    return check_report("merge");
}
