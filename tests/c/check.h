/* The least a C test needs: CHECK counts, check_report prints the closing line and gives the exit status. */
#ifndef PENSTOCK_CHECK_H
#define PENSTOCK_CHECK_H

#include <stdio.h>
#include <stdlib.h>

static long check_passed, check_failed;

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (condition) {                                                                                               \
            check_passed++;                                                                                            \
        } else {                                                                                                       \
            check_failed++;                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                    \
            if (check_failed > 20)                                                                                     \
                exit(1);                                                                                               \
        }                                                                                                              \
    } while (0)

static inline int check_report(const char *name)
{
    printf("%s: %ld checks passed, %ld failed\n", name, check_passed, check_failed);
    return check_failed ? 1 : 0;
}

#endif
