/* A host that ends in the middle of a scan. leave_open HOME BUNDLE SLIDE.rgb */
#include "host.h"

int main(int count, char **arguments) {
    if (count != 4) {
        return 2;
    }
    uint8_t *pixels = read_slide(arguments[3]);
    CHECK(pgrt_init(arguments[1]) == PGRT_OK);
    CHECK(push_all(begin(open_bundle(arguments[2])), pixels) == PGRT_OK);
    return failures != 0;
}
