/* What the test programs share: checks that say where they failed, a slide of raw pixels. */
#ifndef HOST_H
#define HOST_H

#include "pathgene_rt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;

#define CHECK(condition)                                                          \
    do {                                                                          \
        if (!(condition)) {                                                       \
            failures++;                                                           \
            fprintf(stderr, "%s:%d: %s; last error: %s\n", __FILE__, __LINE__,    \
                    #condition, pgrt_last_error());                               \
        }                                                                         \
    } while (0)

/* A failing call has this status and an error that holds these words. */
#define REFUSED(call, expected, words)                                              \
    do {                                                                            \
        pgrt_status got = (call);                                                   \
        if (got != (expected) || strstr(pgrt_last_error(), words) == NULL) {        \
            failures++;                                                             \
            fprintf(stderr, "%s:%d: %s is %d: %s\n", __FILE__, __LINE__, #call, got, \
                    pgrt_last_error());                                             \
        }                                                                           \
    } while (0)

enum { SIDE_PX = 1024 };

/* SIDE_PX x SIDE_PX pixels, 3 bytes each. */
static inline uint8_t *read_slide(const char *path) {
    size_t size = (size_t)3 * SIDE_PX * SIDE_PX;
    uint8_t *pixels = malloc(size);
    FILE *file = fopen(path, "rb");
    if (pixels == NULL || file == NULL || fread(pixels, 1, size, file) != size) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(2);
    }
    fclose(file);
    return pixels;
}

static inline pgrt_predictor *open_bundle(const char *bundle) {
    pgrt_predictor *predictor = NULL;
    pgrt_open_options options = {.struct_size = sizeof options, .threads = 1, .precision = "float32"};
    CHECK(pgrt_open(bundle, &options, &predictor) == PGRT_OK);
    return predictor;
}

static inline pgrt_scan *begin(pgrt_predictor *predictor) {
    pgrt_scan *scan = NULL;
    pgrt_scan_options options = {.struct_size = sizeof options,
                                 .width_px = SIDE_PX,
                                 .height_px = SIDE_PX,
                                 .mpp = 0.5};
    CHECK(pgrt_scan_begin(predictor, &options, &scan) == PGRT_OK);
    return scan;
}

/* Push the slide in bands; the status of the first that was not taken. */
static inline pgrt_status push_all(pgrt_scan *scan, const uint8_t *pixels) {
    enum { BAND_PX = 100 };
    for (int32_t y = 0; y < SIDE_PX; y += BAND_PX) {
        int32_t height = SIDE_PX - y < BAND_PX ? SIDE_PX - y : BAND_PX;
        pgrt_status status;
        do {
            status = pgrt_push_tile(scan, pixels + (size_t)y * 3 * SIDE_PX, SIDE_PX, height,
                                    3 * SIDE_PX, PGRT_RGB, 0, y);
        } while (status == PGRT_BUSY);
        if (status != PGRT_OK) {
            return status;
        }
    }
    return PGRT_OK;
}

#endif
