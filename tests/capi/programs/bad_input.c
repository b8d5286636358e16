/* Every wrong argument is a status and a reason. bad_input HOME BUNDLE DAMAGED SLIDE.rgb */
#include "host.h"

#include <math.h>

static void before_the_start(const char *bundle) {
    pgrt_predictor *predictor = (pgrt_predictor *)&failures;
    CHECK(strlen(pgrt_last_error()) == 0);
    REFUSED(pgrt_init(NULL), PGRT_E_HOME, "PGRT_HOME");
    REFUSED(pgrt_init("/no/such/folder"), PGRT_E_HOME, "/no/such/folder");
    REFUSED(pgrt_init("/etc"), PGRT_E_HOME, "bin/python3");
    REFUSED(pgrt_open(bundle, NULL, &predictor), PGRT_E_HOME, "PGRT_HOME");
    CHECK(predictor == NULL);
    REFUSED(pgrt_cancel(NULL), PGRT_E_HANDLE, "NULL");
    pgrt_scan_free(NULL);
    pgrt_report_free(NULL);
    pgrt_predictor_free(NULL);
}

static void opening(const char *bundle, const char *damaged) {
    pgrt_predictor *predictor;
    struct {
        pgrt_open_options options;
        uint64_t newer;
    } grown = {.options = {.struct_size = sizeof grown, .precision = "float32"}};
    pgrt_open_options options = {.struct_size = sizeof options};
    REFUSED(pgrt_open(NULL, &options, &predictor), PGRT_E_USAGE, "bundle is NULL");
    REFUSED(pgrt_open(bundle, &options, NULL), PGRT_E_USAGE, "predictor is NULL");
    REFUSED(pgrt_open("/no/such.pgrt", NULL, &predictor), PGRT_E_BUNDLE, "/no/such.pgrt");
    REFUSED(pgrt_open("\xff.pgrt", NULL, &predictor), PGRT_E_USAGE, "UTF-8");
    REFUSED(pgrt_open(damaged, NULL, &predictor), PGRT_E_BUNDLE, "encoder.onnx");
    options.engine = "abacus";
    REFUSED(pgrt_open(bundle, &options, &predictor), PGRT_E_USAGE, "abacus");
    options.engine = NULL;
    options.precision = "int3";
    REFUSED(pgrt_open(bundle, &options, &predictor), PGRT_E_USAGE, "int3");
    options.precision = NULL;
    options.threads = 4000000000u;
    REFUSED(pgrt_open(bundle, &options, &predictor), PGRT_E_USAGE, "4000000000");
    uint32_t sizes[] = {0, 4, sizeof options - 1, 5000, UINT32_MAX};
    for (size_t at = 0; at < sizeof sizes / sizeof *sizes; at++) {
        pgrt_open_options wrong = {.struct_size = sizes[at]};
        REFUSED(pgrt_open(bundle, &wrong, &predictor), PGRT_E_USAGE, "struct_size");
        CHECK(predictor == NULL);
    }
    grown.newer = 1;
    REFUSED(pgrt_open(bundle, &grown.options, &predictor), PGRT_E_USAGE, "does not know");
    grown.newer = 0;
    CHECK(pgrt_open(bundle, &grown.options, &predictor) == PGRT_OK);
    pgrt_predictor_free(predictor);
}

static void beginning(pgrt_predictor *predictor) {
    pgrt_scan *scan;
    pgrt_scan_options good = {.struct_size = sizeof good, .mpp = 0.5}, wrong;
    REFUSED(pgrt_scan_begin(NULL, &good, &scan), PGRT_E_HANDLE, "NULL");
    REFUSED(pgrt_scan_begin((pgrt_predictor *)&good, &good, &scan), PGRT_E_HANDLE, "predictor");
    REFUSED(pgrt_scan_begin(predictor, &good, NULL), PGRT_E_USAGE, "scan is NULL");
    REFUSED(pgrt_scan_begin(predictor, NULL, &scan), PGRT_E_SCAN_INPUT, "mpp");
    double scales[] = {0, -0.5, NAN, INFINITY};
    for (size_t at = 0; at < sizeof scales / sizeof *scales; at++) {
        wrong = good;
        wrong.mpp = scales[at];
        REFUSED(pgrt_scan_begin(predictor, &wrong, &scan), PGRT_E_SCAN_INPUT, "mpp");
        CHECK(scan == NULL);
    }
    wrong = good;
    wrong.mpp = 1.4;
    REFUSED(pgrt_scan_begin(predictor, &wrong, &scan), PGRT_E_SLIDE_SCALE, "1.4");
    wrong = good;
    wrong.width_px = -5;
    wrong.height_px = 7;
    REFUSED(pgrt_scan_begin(predictor, &wrong, &scan), PGRT_E_SCAN_INPUT, "-5");
    wrong = good;
    wrong.width_px = 100;
    REFUSED(pgrt_scan_begin(predictor, &wrong, &scan), PGRT_E_SCAN_INPUT, "100");
    wrong = good;
    wrong.struct_size = 8;
    REFUSED(pgrt_scan_begin(predictor, &wrong, &scan), PGRT_E_USAGE, "struct_size 8");
}

static void pushing(pgrt_scan *scan, const uint8_t *pixels) {
    REFUSED(pgrt_push_tile(NULL, pixels, 8, 8, 24, PGRT_RGB, 0, 0), PGRT_E_HANDLE, "NULL");
    REFUSED(pgrt_push_tile(scan, NULL, 8, 8, 24, PGRT_RGB, 0, 0), PGRT_E_USAGE, "pixels");
    REFUSED(pgrt_push_tile(scan, pixels, 8, 8, 24, 0, 0, 0), PGRT_E_USAGE, "format 0");
    REFUSED(pgrt_push_tile(scan, pixels, 8, 8, 24, 5, 0, 0), PGRT_E_USAGE, "format 5");
    REFUSED(pgrt_push_tile(scan, pixels, 0, 8, 24, PGRT_RGB, 0, 0), PGRT_E_SCAN_INPUT, "0 x 8");
    REFUSED(pgrt_push_tile(scan, pixels, 8, 0, 24, PGRT_RGB, 0, 0), PGRT_E_SCAN_INPUT, "8 x 0");
    REFUSED(pgrt_push_tile(scan, pixels, -8, 8, 24, PGRT_RGB, 0, 0), PGRT_E_SCAN_INPUT, "-8 x 8");
    REFUSED(pgrt_push_tile(scan, pixels, 8, 8, 23, PGRT_RGB, 0, 0), PGRT_E_SCAN_INPUT, "stride");
    REFUSED(pgrt_push_tile(scan, pixels, 8, 8, 31, PGRT_BGRA, 0, 0), PGRT_E_SCAN_INPUT, "stride");
    REFUSED(pgrt_push_tile(scan, pixels, 8, 8, -24, PGRT_RGB, 0, 0), PGRT_E_SCAN_INPUT, "stride");
    REFUSED(pgrt_push_tile(scan, pixels, 8, 8, INT64_MAX, PGRT_RGB, 0, 0), PGRT_E_SCAN_INPUT,
            "stride");
    REFUSED(pgrt_push_tile(scan, pixels, 8, 8, 24, PGRT_RGB, -1, 0), PGRT_E_SCAN_INPUT, "-1");
    REFUSED(pgrt_push_tile(scan, pixels, 8, 8, 24, PGRT_RGB, 0, SIDE_PX), PGRT_E_SCAN_INPUT,
            "1024");
    REFUSED(pgrt_push_tile(scan, pixels, 8, 8, 24, PGRT_RGB, SIDE_PX - 7, 0), PGRT_E_SCAN_INPUT,
            "1017");
    REFUSED(pgrt_push_tile(scan, pixels, 8, 8, 24, PGRT_RGB, INT64_MAX, INT64_MAX),
            PGRT_E_SCAN_INPUT, "9223372036854775807");
}

static void reports(pgrt_predictor *predictor, pgrt_scan *scan) {
    pgrt_report *report = NULL;
    pgrt_report_info info = {.struct_size = sizeof info};
    pgrt_prediction prediction = {.struct_size = sizeof prediction};
    REFUSED(pgrt_poll(scan, NULL), PGRT_E_USAGE, "report is NULL");
    REFUSED(pgrt_poll((pgrt_scan *)predictor, &report), PGRT_E_HANDLE, "scan");
    CHECK(pgrt_finish(scan, 60, &report) == PGRT_OK);
    CHECK(pgrt_report_get_info(report, &info) == PGRT_OK);
    CHECK(info.struct_size == sizeof info && info.prediction_count == 2 && info.tiles > 0);
    CHECK(info.partial == 0 && strstr(info.json, "\"predictions\"") != NULL);
    REFUSED(pgrt_report_get_info(NULL, &info), PGRT_E_HANDLE, "NULL");
    REFUSED(pgrt_report_get_info(report, NULL), PGRT_E_USAGE, "NULL");
    info.struct_size = 3;
    REFUSED(pgrt_report_get_info(report, &info), PGRT_E_USAGE, "struct_size 3");
    CHECK(pgrt_report_get_prediction(report, 1, &prediction) == PGRT_OK);
    CHECK(prediction.class_count == 2 && strcmp(prediction.gene, "TP53") == 0);
    REFUSED(pgrt_report_get_prediction(report, 2, &prediction), PGRT_E_USAGE, "2");
    REFUSED(pgrt_report_get_prediction(report, 0, NULL), PGRT_E_USAGE, "NULL");
    pgrt_report_free(report);
    REFUSED(pgrt_report_get_info(report, &info), PGRT_E_HANDLE, "freed");
    pgrt_report_free(report);
}

static void too_late(pgrt_predictor *predictor, pgrt_scan *scan, const uint8_t *pixels) {
    pgrt_report *report = NULL;
    REFUSED(pgrt_push_tile(scan, pixels, 8, 8, 24, PGRT_RGB, 0, 0), PGRT_E_SCAN_STATE, "finish");
    REFUSED(pgrt_finish(scan, 1, &report), PGRT_E_SCAN_STATE, "finish");
    CHECK(report == NULL);
    CHECK(pgrt_cancel(scan) == PGRT_OK);
    pgrt_scan_free(scan);
    REFUSED(pgrt_cancel(scan), PGRT_E_HANDLE, "freed");
    REFUSED(pgrt_poll(scan, &report), PGRT_E_HANDLE, "freed");
    REFUSED(pgrt_finish(scan, 1, &report), PGRT_E_HANDLE, "freed");
    REFUSED(pgrt_push_tile(scan, pixels, 8, 8, 24, PGRT_RGB, 0, 0), PGRT_E_HANDLE, "freed");
    pgrt_scan_free(scan);
    pgrt_scan_free((pgrt_scan *)predictor);
    REFUSED(pgrt_cancel((pgrt_scan *)~(uintptr_t)0), PGRT_E_HANDLE, "scan");
    scan = begin(predictor);
    CHECK(pgrt_cancel(scan) == PGRT_OK && pgrt_cancel(scan) == PGRT_OK);
    REFUSED(pgrt_finish(scan, 1, &report), PGRT_E_CANCELLED, "");
    pgrt_scan_free(scan);
    scan = begin(predictor);
    REFUSED(pgrt_finish(scan, 60, &report), PGRT_E_NO_TISSUE, "pushed");
    REFUSED(pgrt_finish(scan, NAN, &report), PGRT_E_SCAN_INPUT, "timeout");
    pgrt_scan_free(scan);
}

static void files(pgrt_predictor *predictor, const char *bundle) {
    pgrt_report *report = NULL;
    REFUSED(pgrt_predict_file(predictor, NULL, NULL, &report), PGRT_E_USAGE, "slide is NULL");
    REFUSED(pgrt_predict_file(predictor, "/no/such.svs", NULL, &report), PGRT_E_SLIDE_OPEN,
            "/no/such.svs");
    REFUSED(pgrt_predict_file(predictor, bundle, NULL, &report), PGRT_E_SLIDE_OPEN, "");
    REFUSED(pgrt_predict_file(NULL, bundle, NULL, &report), PGRT_E_HANDLE, "NULL");
}

int main(int count, char **arguments) {
    if (count != 5) {
        return 2;
    }
    uint8_t *pixels = read_slide(arguments[4]);
    before_the_start(arguments[2]);
    CHECK(pgrt_init(arguments[1]) == PGRT_OK && pgrt_init(NULL) == PGRT_OK);
    REFUSED(pgrt_init("/usr"), PGRT_E_HOME, "already");
    opening(arguments[2], arguments[3]);
    pgrt_predictor *predictor = open_bundle(arguments[2]);
    beginning(predictor);
    pgrt_scan *scan = begin(predictor);
    pushing(scan, pixels);
    CHECK(push_all(scan, pixels) == PGRT_OK);
    reports(predictor, scan);
    too_late(predictor, scan, pixels);
    files(predictor, arguments[2]);
    scan = begin(predictor);
    pgrt_predictor_free(predictor); /* lives on with its scan */
    CHECK(push_all(scan, pixels) == PGRT_OK);
    pgrt_report *report = NULL;
    CHECK(pgrt_finish(scan, -1, &report) == PGRT_OK);
    pgrt_report_free(report);
    pgrt_scan_free(scan);
    REFUSED(pgrt_scan_begin(predictor, NULL, &scan), PGRT_E_HANDLE, "freed");
    free(pixels);
    return failures != 0;
}
