/* A slide that is pushed: push HOME BUNDLE SLIDE.rgb prints what a host reads of its last interim
 * report and of its report, in JSON. */
#include "host.h"

/* "NAME": the number of tiles, the first head's call and probabilities, and the document. */
static void print_report(const char *name, pgrt_report *report) {
    pgrt_report_info info = {.struct_size = sizeof info};
    CHECK(pgrt_report_get_info(report, &info) == PGRT_OK);
    printf("\"%s\": {\"tiles\": %llu, \"heads\": [", name, (unsigned long long)info.tiles);
    for (uint32_t head = 0; head < info.prediction_count; head++) {
        pgrt_prediction one = {.struct_size = sizeof one};
        CHECK(pgrt_report_get_prediction(report, head, &one) == PGRT_OK);
        printf("%s{\"call\": \"%s\", \"probabilities\": [", head > 0 ? ", " : "", one.call);
        for (uint32_t class = 0; class < one.class_count; class++) {
            printf("%s%.17g", class > 0 ? ", " : "", one.probabilities[class]);
        }
        printf("]}");
    }
    printf("], \"document\": %s}", info.json);
}

int main(int count, char **arguments) {
    pgrt_report *interim = NULL;
    pgrt_report *report = NULL;
    if (count != 4) {
        return 2;
    }
    CHECK(pgrt_init(arguments[1]) == PGRT_OK);
    pgrt_predictor *predictor = open_bundle(arguments[2]);
    uint8_t *pixels = read_slide(arguments[3]);
    pgrt_scan *scan = begin(predictor);
    CHECK(push_all(scan, pixels) == PGRT_OK);
    CHECK(pgrt_poll(scan, &interim) == PGRT_OK);
    CHECK(pgrt_finish(scan, -1, &report) == PGRT_OK);
    printf("{");
    print_report("interim", interim);
    printf(", ");
    print_report("final", report);
    printf("}\n");
    pgrt_report_free(interim);
    pgrt_report_free(report);
    pgrt_scan_free(scan);
    pgrt_predictor_free(predictor);
    free(pixels);
    return failures != 0;
}
