/* OpenTelemetry without a fuzzer: the same checks on mutated requests, cut at every byte.
 *
 * Arguments: files to begin with; those of the fuzzer's corpus by default. */
#include <dirent.h>

#include "../fuzz/fuzz_otlp.c"
#include "check.h"
#include "mutate.h"

#define SEEDS_MAX 64u
#define SEED_BYTES_MAX 2048u

static uint8_t seeds[SEEDS_MAX][SEED_BYTES_MAX];
static uint32_t seed_bytes[SEEDS_MAX], seed_count;

static void take_seed(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL || seed_count == SEEDS_MAX)
        return;
    uint32_t n = (uint32_t)fread(seeds[seed_count], 1, SEED_BYTES_MAX, file);
    seed_bytes[seed_count] = n;
    seed_count += n > 1;
    fclose(file);
}

static void take_corpus(const char *folder)
{
    DIR *found = opendir(folder);
    char path[512];
    for (struct dirent *entry; found != NULL && (entry = readdir(found)) != NULL;) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        take_seed(path);
    }
    if (found != NULL)
        closedir(found);
}

static void test_mutated_requests(void)
{
    static const char bytes[] = "\x00\x01\x07\x08\x09\x0a\x0b\x10\x12\x19\x1a\x21\x22\x2a\x31\x3a\x4a\x52\x7f\x80\x81\xff\xf0\x7f ,=\\_\"";
    for (int round = 0; round < 40000; round++) {
        uint8_t text[SEED_BYTES_MAX + 512];
        uint32_t seed = mutate_below(seed_count), n = seed_bytes[seed] - 1;
        memcpy(text, seeds[seed], n + 1);
        for (uint32_t k = mutate_below(5); k > 0; k--)
            mutate(text + 1, &n, bytes, sizeof bytes - 1);
        LLVMFuzzerTestOneInput(text, n + 1);
        CHECK(true); /* a violation aborts */
    }
}

static void test_cut_requests(void)
{
    for (uint32_t seed = 0; seed < seed_count; seed++)
        for (uint32_t cut = 0; cut < seed_bytes[seed]; cut++) {
            line_counts_t counts = format_run(read_otlp, seeds[seed] + 1, cut, seeds[seed][0] & 1);
            CHECK(counts.dropped[DROP_PROTOBUF] <= 1);
        }
}

int main(int argc, char **argv)
{
    LLVMFuzzerInitialize(NULL, NULL);
    for (int i = 1; i < argc; i++)
        take_seed(argv[i]);
    if (argc == 1) {
        take_corpus("../fuzz/corpus/otlp");
        take_corpus("tests/fuzz/corpus/otlp");
    }
    CHECK(seed_count > 0);
    if (seed_count > 0) {
        test_mutated_requests();
        test_cut_requests();
    }
    return check_report("otlp");
}
