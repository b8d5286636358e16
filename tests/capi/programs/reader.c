/* A slide reader of the host's: its files are predicted, and one that it crashes on is one error.
 * reader HOME BUNDLE READER.so BAD GOOD */
#include "host.h"

int main(int count, char **arguments) {
    if (count != 6) {
        return 2;
    }
    const char *library = arguments[3], *bad = arguments[4], *good = arguments[5];
    pgrt_predict_options options = {.struct_size = sizeof options};
    pgrt_report_info info = {.struct_size = sizeof info};
    pgrt_report *report = NULL;

    CHECK(pgrt_init(arguments[1]) == PGRT_OK);
    REFUSED(pgrt_add_reader(NULL), PGRT_E_USAGE, "library is NULL");
    REFUSED(pgrt_add_reader("/no/such.so"), PGRT_E_USAGE, "/no/such.so");
    pgrt_predictor *predictor = open_bundle(arguments[2]);
    REFUSED(pgrt_predict_file(predictor, good, &options, &report), PGRT_E_SLIDE_OPEN, good);
    CHECK(pgrt_add_reader(library) == PGRT_OK);
    for (int round = 0; round < 2; round++) {
        REFUSED(pgrt_predict_file(predictor, bad, &options, &report), PGRT_E_SLIDE_READ,
                "crashed (SIGSEGV) while it read it");
        CHECK(report == NULL);
        CHECK(pgrt_predict_file(predictor, good, &options, &report) == PGRT_OK);
        CHECK(pgrt_report_get_info(report, &info) == PGRT_OK && info.tiles > 0);
        CHECK(strstr(info.json, "acme 1.2") != NULL);
        pgrt_report_free(report);
        report = NULL;
    }
    pgrt_predictor_free(predictor);
    return failures != 0;
}
