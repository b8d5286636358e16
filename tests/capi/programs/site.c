/* A site profile: which are refused, and what one does. site HOME BUNDLE PROFILE FOREIGN SLIDE.rgb
 * prints the report of a scan that is answered by PROFILE. */
#include "host.h"

int main(int count, char **arguments) {
    pgrt_predictor *predictor;
    pgrt_report *report = NULL;
    pgrt_report_info info = {.struct_size = sizeof info};
    pgrt_open_options options = {
        .struct_size = sizeof options, .threads = 1, .precision = "float32"};
    if (count != 6) {
        return 2;
    }
    CHECK(pgrt_init(arguments[1]) == PGRT_OK);
    options.site = "/no/such.site.json";
    REFUSED(pgrt_open(arguments[2], &options, &predictor), PGRT_E_USAGE, "/no/such.site.json");
    options.site = "\xff";
    REFUSED(pgrt_open(arguments[2], &options, &predictor), PGRT_E_USAGE, "UTF-8");
    options.site = arguments[5];
    REFUSED(pgrt_open(arguments[2], &options, &predictor), PGRT_E_BUNDLE, "site profile");
    options.site = arguments[4];
    REFUSED(pgrt_open(arguments[2], &options, &predictor), PGRT_E_USAGE, "calibrate this bundle");
    CHECK(predictor == NULL);
    options.site = arguments[3];
    CHECK(pgrt_open(arguments[2], &options, &predictor) == PGRT_OK);
    uint8_t *pixels = read_slide(arguments[5]);
    pgrt_scan *scan = begin(predictor);
    CHECK(push_all(scan, pixels) == PGRT_OK);
    CHECK(pgrt_finish(scan, -1, &report) == PGRT_OK);
    CHECK(pgrt_report_get_info(report, &info) == PGRT_OK);
    printf("%s\n", info.json);
    pgrt_report_free(report);
    pgrt_scan_free(scan);
    pgrt_predictor_free(predictor);
    free(pixels);
    return failures != 0;
}
