/* The C path of scan.py: pushes the slide once for every line on standard input, prints seconds,
 * busy answers and lag, and the report.
 * capi_push HOME BUNDLE PRECISION SLIDE.rgb WIDTH HEIGHT MPP PLACES; PLACES has lines "x y w h" */
#define _POSIX_C_SOURCE 200809L
#include "pathgene_rt.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct {
    int32_t x, y, width, height;
} place;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void require(pgrt_status status, const char *doing) {
    if (status != PGRT_OK) {
        fprintf(stderr, "%s: %s (status %d)\n", doing, pgrt_last_error(), status);
        exit(EXIT_FAILURE);
    }
}

static void push_slide(pgrt_predictor *predictor, const pgrt_scan_options *options,
                       const uint8_t *pixels, const place *places, int count) {
    pgrt_scan *scan = NULL;
    pgrt_report *report = NULL;
    pgrt_report_info info = {.struct_size = sizeof info};
    int64_t stride = 3 * (int64_t)options->width_px;
    int busy = 0;
    double began = now();
    require(pgrt_scan_begin(predictor, options, &scan), "scan");
    for (int number = 0; number < count; number++) {
        const place *at = &places[number];
        pgrt_status status;
        while ((status = pgrt_push_tile(scan, pixels + at->y * stride + 3 * (int64_t)at->x,
                                        at->width, at->height, stride, PGRT_RGB, at->x, at->y)) ==
               PGRT_BUSY) {
            busy++;
            nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        }
        require(status, "push");
    }
    double last = now();
    require(pgrt_finish(scan, -1, &report), "finish");
    pgrt_scan_free(scan);
    double ended = now();
    require(pgrt_report_get_info(report, &info), "report");
    printf("%.6f %d %.6f\n%s\n", ended - began, busy, ended - last, info.json);
    fflush(stdout);
    pgrt_report_free(report);
}

int main(int count, char **arguments) {
    static place places[65536];
    pgrt_predictor *predictor = NULL;
    int frames = 0;
    if (count != 9) {
        return 2;
    }
    pgrt_open_options opening = {.struct_size = sizeof opening, .precision = arguments[3]};
    pgrt_scan_options options = {.struct_size = sizeof options,
                                 .width_px = atoi(arguments[5]),
                                 .height_px = atoi(arguments[6]),
                                 .mpp = strtod(arguments[7], NULL)};
    size_t size = (size_t)3 * (size_t)options.width_px * (size_t)options.height_px;
    uint8_t *pixels = malloc(size);
    FILE *slide = fopen(arguments[4], "rb"), *list = fopen(arguments[8], "r");
    if (pixels == NULL || slide == NULL || list == NULL || fread(pixels, 1, size, slide) != size) {
        return 2;
    }
    while (frames < 65536 && fscanf(list, "%d %d %d %d", &places[frames].x, &places[frames].y,
                                    &places[frames].width, &places[frames].height) == 4) {
        frames++;
    }
    fclose(list);
    fclose(slide);
    require(pgrt_init(arguments[1]), "init");
    require(pgrt_open(arguments[2], &opening, &predictor), "open");
    for (int go; (go = getchar()) != EOF;) {
        if (go == '\n') {
            push_slide(predictor, &options, pixels, places, frames);
        }
    }
    pgrt_predictor_free(predictor);
    free(pixels);
    return 0;
}
