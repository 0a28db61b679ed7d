/* Types of fields: the first is kept, numbers are coerced where that is exact, and a file that was cut keeps what was whole. */
#include "check.h"
#include "types_refused.h"

static types_t types;
static types_writer_t writer;
static char path[] = "/tmp/penstock-types-XXXXXX";
static int file;

static bool is(const uint8_t *p, uint32_t n, const char *text)
{
    bool same = n == strlen(text) && memcmp(p, text, n) == 0;
    if (!same)
        fprintf(stderr, "%.*s, wanted %s\n", (int)n, p, text);
    return same;
}

static type_kind_t kind(const char *m, const char *f, type_kind_t came)
{
    return types_of(&types, (const uint8_t *)m, (uint32_t)strlen(m), (const uint8_t *)f, (uint32_t)strlen(f), came);
}

static void begin(uint32_t fields_max, types_rules_t rules)
{
    memset(&types, 0, sizeof types);
    memset(&writer, 0, sizeof writer);
    CHECK(types_open(&types, -1, fields_max) == 0 && types_writer_open(&writer, &types, rules));
}

static types_verdict_t line(const char *m, const char *fields)
{
    static uint8_t text[70000], name[300];
    strcpy((char *)text, fields);
    strcpy((char *)name, m);
    return types_line(&writer, name, (uint32_t)strlen(m), text, (uint32_t)strlen(fields), 0);
}

static bool becomes(const char *fields, const char *wanted)
{
    if (line("m", fields) != TYPES_MENDED)
        return false;
    return is(writer.mended.fields, writer.mended.fields_length, wanted);
}

static void test_fields_are_read(void)
{
    static const char text[] = "a=1.5,b\\=\\,\\ c=2i,d=3u,e=true,f=F,g=\"x,\\\"y=\\\\\",h=-1e5";
    static const struct { const char *key, *value; type_kind_t kind; } wanted[] = {
        {"a", "1.5", TYPE_FLOAT}, {"b\\=\\,\\ c", "2i", TYPE_INTEGER}, {"d", "3u", TYPE_UNSIGNED}, {"e", "true", TYPE_BOOLEAN},
        {"f", "F", TYPE_BOOLEAN}, {"g", "\"x,\\\"y=\\\\\"", TYPE_STRING}, {"h", "-1e5", TYPE_FLOAT}};
    types_field_t f;
    uint32_t i = 0;
    const uint8_t *end = (const uint8_t *)text + sizeof text - 1;
    for (const uint8_t *p = (const uint8_t *)text; types_next(&p, end, &f); i++)
        CHECK(is(f.key, f.key_length, wanted[i].key) && is(f.value, f.value_length, wanted[i].value) && f.kind == wanted[i].kind);
    CHECK(i == 7);
}

static void test_every_pair_of_types(void)
{
    static const struct { const char *kept, *came, *becomes; } table[] = {
        {"1.5", "2i", "v=2"},         {"1.5", "-2i", "v=-2"},      {"1.5", "9007199254740993i", ""},
        {"1.5", "9007199254740992i", "v=9007199254740992"},        {"1.5", "-9223372036854775808i", "v=-9223372036854775808"},
        {"1.5", "9223372036854775807i", ""},                       {"1.5", "2u", "v=2"},
        {"1.5", "18446744073709551615u", ""},                      {"1.5", "18446744073709549568u", "v=18446744073709549568"},
        {"1.5", "true", ""},          {"1.5", "\"x\"", ""},
        {"1i", "2.0", "v=2i"},        {"1i", "2.5", ""},           {"1i", "-3", "v=-3i"},       {"1i", "1e3", "v=1000i"},
        {"1i", "-0", "v=0i"},         {"1i", "-0.0", "v=0i"},      {"1i", "9223372036854775807", "v=9223372036854775807i"},
        {"1i", "9223372036854775808", ""},                         {"1i", "-9223372036854775808", "v=-9223372036854775808i"},
        {"1i", "-9223372036854775809", ""},                        {"1i", "1e300", ""},         {"1i", "-1e300", ""},
        {"1i", "7u", "v=7i"},         {"1i", "9223372036854775808u", ""},                       {"1i", "f", ""},
        {"1i", "\"1\"", ""},
        {"1u", "2i", "v=2u"},         {"1u", "-2i", ""},           {"1u", "2", "v=2u"},         {"1u", "-2", ""},
        {"1u", "-0.0", "v=0u"},       {"1u", "1.8e19", "v=18000000000000000000u"},              {"1u", "1.9e19", ""},
        {"1u", "18446744073709551616", ""},                        {"1u", "true", ""},
        {"true", "1", ""},            {"true", "1i", ""},          {"true", "1u", ""},          {"true", "\"t\"", ""},
        {"\"s\"", "1", ""},           {"\"s\"", "1i", ""},         {"\"s\"", "1u", ""},         {"\"s\"", "t", ""},
        {"1", "1e-400", NULL},        {"t", "False", NULL},        {"\"\"", "\"x\"", NULL},     {"5u", "0u", NULL}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char text[64];
        begin(1000, (types_rules_t){.coerce = true});
        snprintf(text, sizeof text, "v=%s", table[i].kept);
        CHECK(line("m", text) == TYPES_RIGHT);
        snprintf(text, sizeof text, "v=%s", table[i].came);
        if (table[i].becomes == NULL) {
            CHECK(line("m", text) == TYPES_RIGHT);
        } else if (*table[i].becomes) {
            CHECK(becomes(text, table[i].becomes) && writer.mended.coerced == 1 && writer.mended.refused == 0);
        } else {
            CHECK(line("m", text) == TYPES_NOTHING_LEFT && writer.mended.refused == 1 && writer.mended.refused_count == 1);
            CHECK(is(writer.mended.refusals[0].field.value, writer.mended.refusals[0].field.value_length, table[i].came));
        }
        /* The kept one stays, and other measurements have their own. */
        snprintf(text, sizeof text, "v=%s", table[i].kept);
        CHECK(line("m", text) == TYPES_RIGHT);
        snprintf(text, sizeof text, "v=%s", table[i].came);
        CHECK(line("other", text) == TYPES_RIGHT);
        types_close(&types);
    }
}

static void test_only_the_field_in_conflict_goes(void)
{
    begin(1000, (types_rules_t){.coerce = true});
    CHECK(line("m", "a=1,b=2i,c=\"x\"") == TYPES_RIGHT);
    CHECK(becomes("a=\"s\",b=3,c=\"y\",d=t", "b=3i,c=\"y\",d=t") && writer.mended.coerced == 1 && writer.mended.refused == 1);
    CHECK(writer.mended.refusals[0].kept == TYPE_FLOAT && writer.mended.refusals[0].field.kind == TYPE_STRING);
    CHECK(becomes("a=\"s\",a2=5u,b=1", "a2=5u,b=1i"));
    CHECK(is(writer.mended.fields_signed, writer.mended.fields_signed_length, "a2=5i,b=1i"));
    CHECK(becomes("a2=18446744073709551615u,b=1", "a2=18446744073709551615u,b=1i") && writer.mended.clamped == 1);
    CHECK(is(writer.mended.fields_signed, writer.mended.fields_signed_length, "a2=9223372036854775807i,b=1i"));
    CHECK(line("m", "c=1") == TYPES_NOTHING_LEFT && line("m", "d=F") == TYPES_RIGHT);
    types_close(&types);
}

static void test_renaming(void)
{
    begin(1000, (types_rules_t){.coerce = true, .rename = true});
    CHECK(line("m", "v=1.5") == TYPES_RIGHT);
    CHECK(becomes("v=\"x\"", "v_string=\"x\"") && writer.mended.renamed == 1);
    CHECK(becomes("v=\"y\",w=1", "v_string=\"y\",w=1"));
    CHECK(line("m", "v=\"y\",v_string=\"z\"") == TYPES_MENDED && writer.mended.refused == 1);
    CHECK(is(writer.mended.fields, writer.mended.fields_length, "v_string=\"z\""));
    CHECK(line("m", "v_boolean=3i") == TYPES_RIGHT);
    CHECK(line("m", "v=t") == TYPES_NOTHING_LEFT);
    types_close(&types);
    begin(1000, (types_rules_t){.coerce = false, .rename = true});
    CHECK(line("m", "v=1.5") == TYPES_RIGHT && becomes("v=1i", "v_integer=1i"));
    types_close(&types);
}

static void test_pinned_types_come_first(void)
{
    begin(1000, (types_rules_t){.coerce = true});
    types_table_t pinned;
    CHECK(types_table_anonymous(&pinned, 10, 4096));
    CHECK(types_add(&pinned, (const uint8_t *)"m", 1, (const uint8_t *)"v", 1, TYPE_INTEGER));
    CHECK(kind("m", "v", TYPE_FLOAT) == TYPE_FLOAT);
    types_pin(&types, &pinned);
    CHECK(kind("m", "v", TYPE_FLOAT) == TYPE_INTEGER && kind("m", "w", TYPE_STRING) == TYPE_STRING);
    types_pin(&types, &pinned);
    CHECK(kind("m", "v", TYPE_INTEGER) == TYPE_FLOAT);
    types_table_close(&pinned);
    types_close(&types);
}

static void test_a_full_table_guards_no_more(void)
{
    begin(3, (types_rules_t){.coerce = true});
    CHECK(line("m", "a=1,b=1,c=1") == TYPES_RIGHT && line("m", "d=1") == TYPES_RIGHT && types.unguarded == 1);
    CHECK(line("m", "d=\"x\"") == TYPES_RIGHT && line("m", "a=\"x\"") == TYPES_NOTHING_LEFT);
    types_close(&types);
    begin(1, (types_rules_t){.coerce = true}); /* 64 bytes a field: a long name has no room */
    char text[256];
    memset(text, 'k', 200);
    strcpy(text + 200, "=1");
    CHECK(line("m", text) == TYPES_RIGHT && types.unguarded == 1);
    types_close(&types);
}

static void test_a_shape_is_remembered(void)
{
    begin(100, (types_rules_t){.coerce = true});
    CHECK(line("m", "a=1,b=2i") == TYPES_RIGHT);
    pthread_mutex_lock(&types.lock); /* who asks the table now never comes back */
    CHECK(line("m", "a=7.5,b=-9i") == TYPES_RIGHT);
    pthread_mutex_unlock(&types.lock);
    types_close(&types);
}

/* ---- the file ---- */

static int reopen(uint32_t fields_max)
{
    types_close(&types);
    memset(&types, 0, sizeof types);
    return types_open(&types, file, fields_max);
}

static void fresh(uint32_t fields_max)
{
    CHECK(ftruncate(file, 0) == 0);
    memset(&types, 0, sizeof types);
    CHECK(types_open(&types, file, fields_max) == 0);
}

static void test_types_outlive_the_process(void)
{
    fresh(1000);
    char name[64];
    for (uint32_t i = 0; i < 900; i++) {
        snprintf(name, sizeof name, "field%u", i);
        CHECK(kind("m", name, (type_kind_t)(i % TYPE_KINDS)) == (type_kind_t)(i % TYPE_KINDS));
    }
    CHECK(types_sync(&types) == 0 && reopen(1000) == 0 && types.kept.count == 900);
    for (uint32_t i = 0; i < 900; i++) {
        snprintf(name, sizeof name, "field%u", i);
        CHECK(kind("m", name, TYPE_STRING) == (type_kind_t)(i % TYPE_KINDS));
    }
    /* Made for fewer, nothing is lost; for more, there is room. */
    CHECK(reopen(10) == 0 && types.kept.count == 900 && kind("m", "field899", TYPE_STRING) == (type_kind_t)(899 % TYPE_KINDS));
    CHECK(kind("m", "new", TYPE_FLOAT) == TYPE_FLOAT && types.unguarded == 1);
    CHECK(reopen(5000) == 0 && kind("m", "new", TYPE_STRING) == TYPE_STRING && types.unguarded == 0);
    CHECK(reopen(5000) == 0 && kind("m", "new", TYPE_FLOAT) == TYPE_STRING);
    types_close(&types);
}

static void test_a_file_cut_or_damaged_at_every_byte(void)
{
    fresh(20);
    CHECK(kind("cpu", "idle", TYPE_FLOAT) == TYPE_FLOAT && kind("cpu", "count", TYPE_INTEGER) == TYPE_INTEGER);
    CHECK(kind("mem", "name", TYPE_STRING) == TYPE_STRING);
    uint64_t used = types.kept.used;
    uint8_t whole[2048];
    CHECK(pread(file, whole, sizeof whole, 0) > 0);
    off_t size = lseek(file, 0, SEEK_END);
    for (uint64_t cut = TYPES_HEAD; cut <= used; cut++)
        for (int damage = 0; damage < 2; damage++) {
            CHECK(ftruncate(file, 0) == 0 && pwrite(file, whole, cut, 0) == (ssize_t)cut);
            if (damage && cut < used)
                CHECK(pwrite(file, "\xEE", 1, (off_t)cut) == 1);
            CHECK(ftruncate(file, size) == 0 && reopen(20) == 0);
            uint64_t ends = types.kept.used;
            uint32_t before = (uint32_t)(cut - TYPES_HEAD) / 24; /* records are of 24 bytes, the last seven of zeros at most */
            CHECK(types.kept.count >= before && types.kept.count <= before + 1 && ends == TYPES_HEAD + 24 * types.kept.count);
            if (types.kept.count > 0)
                CHECK(kind("cpu", "idle", TYPE_STRING) == TYPE_FLOAT);
            /* What is entered behind the cut is there the next time, whatever stood there. */
            CHECK(kind("new", "field", TYPE_BOOLEAN) == TYPE_BOOLEAN && reopen(20) == 0);
            CHECK(kind("new", "field", TYPE_STRING) == TYPE_BOOLEAN);
        }
    types_close(&types);
}

static void test_a_foreign_file_is_left_alone(void)
{
    CHECK(ftruncate(file, 0) == 0 && pwrite(file, "something else", 14, 0) == 14);
    memset(&types, 0, sizeof types);
    CHECK(types_open(&types, file, 10) == EINVAL);
    types_close(&types);
    char text[14];
    CHECK(pread(file, text, 14, 0) == 14 && memcmp(text, "something else", 14) == 0);
}

/* ---- several writers ---- */

static void *race(void *arg)
{
    size_t wrong = 0;
    char name[32];
    for (uint32_t i = 0; i < 2000; i++) {
        snprintf(name, sizeof name, "f%u", i);
        type_kind_t own = (type_kind_t)((size_t)arg % TYPE_KINDS), kept = kind("m", name, own);
        wrong += kept != kind("m", name, (type_kind_t)((own + 1) % TYPE_KINDS));
    }
    return (void *)wrong;
}

static void test_one_type_wins_for_all_writers(void)
{
    memset(&types, 0, sizeof types);
    CHECK(types_open(&types, -1, 100000) == 0);
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, race, (void *)i) == 0);
    for (size_t i = 0; i < 4; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        CHECK(wrong == NULL);
    }
    CHECK(types.kept.count == 2000);
    types_close(&types);
}

/* ---- what is left out ---- */

static types_refused_t refused;

static void *write_refused(void *arg)
{
    static const uint8_t text[300] = {1};
    for (uint32_t i = 0; i < 20000; i++) {
        refused_part_t parts[] = {{(const uint8_t *)&i, sizeof i}, {text, i % 300}};
        refused_put(&refused, (type_kind_t)(i % TYPE_KINDS), TYPE_STRING, parts, 2);
    }
    return NULL;
}

static void test_what_is_left_out_comes_in_order_or_is_counted(void)
{
    memset(&refused, 0, sizeof refused);
    refused.bytes = malloc(REFUSED_BYTES);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, write_refused, NULL) == 0);
    uint64_t lines = 0, next = 0;
    type_kind_t kept, came;
    static uint8_t text[REFUSED_BYTES];
    for (bool done = false;;) {
        uint32_t n = refused_next(&refused, &kept, &came);
        if (n == 0) {
            if (done)
                break;
            if (lines + counter_get(&refused.unsaved) >= 20000)
                done = true;
            continue;
        }
        refused_take(&refused, text, n);
        uint32_t number = port_load32(text);
        CHECK(number >= next && n == 4 + number % 300 && kept == (type_kind_t)(number % TYPE_KINDS) && came == TYPE_STRING);
        next = number + 1;
        lines++;
    }
    pthread_join(thread, NULL);
    CHECK(lines + counter_get(&refused.unsaved) == 20000 && lines > 0);
    refused_part_t huge = {text, REFUSED_BYTES};
    uint64_t before = counter_get(&refused.unsaved);
    refused_put(&refused, TYPE_FLOAT, TYPE_STRING, &huge, 1);
    CHECK(counter_get(&refused.unsaved) == before + 1 && refused_next(&refused, &kept, &came) == 0);
    free(refused.bytes);
}

int main(void)
{
    file = mkstemp(path);
    if (file < 0)
        return 1;
    unlink(path);
    test_fields_are_read();
    test_every_pair_of_types();
    test_only_the_field_in_conflict_goes();
    test_renaming();
    test_pinned_types_come_first();
    test_a_full_table_guards_no_more();
    test_a_shape_is_remembered();
    test_types_outlive_the_process();
    test_a_file_cut_or_damaged_at_every_byte();
    test_a_foreign_file_is_left_alone();
    test_one_type_wins_for_all_writers();
    test_what_is_left_out_comes_in_order_or_is_counted();
    close(file);
    return check_report("types");
}
