#include "check.h"
#include "memory_ring.h"
int main(void)
{
    return check_report("line");
}
