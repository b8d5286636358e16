/* Slide after slide through one process; one CSV line each with what the process holds after it.
 * capi_soak HOME BUNDLE SLIDE.rgb SIDE_PX SLIDES POLLS */
#define _POSIX_C_SOURCE 200809L
#include "pathgene_rt.h"

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { STAGE_PX = 200, PUSHERS = 2 };

typedef struct {
    pgrt_scan *scan;
    const uint8_t *pixels;
    int32_t side_px, first;
} band;

static void require(pgrt_status status, const char *doing) {
    if (status != PGRT_OK) {
        fprintf(stderr, "%s: %s (status %d)\n", doing, pgrt_last_error(), status);
        exit(EXIT_FAILURE);
    }
}

static void push_one(const band *mine, int32_t x, int32_t y) {
    int32_t side = mine->side_px;
    int32_t width = side - x < STAGE_PX ? side - x : STAGE_PX;
    int32_t height = side - y < STAGE_PX ? side - y : STAGE_PX;
    pgrt_status status;
    while ((status = pgrt_push_tile(mine->scan, mine->pixels + 3 * ((size_t)y * side + x), width,
                                    height, 3 * (int64_t)side, PGRT_RGB, x, y)) == PGRT_BUSY) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    require(status, "push");
}

/* Every PUSHERS-th row of fields of view. */
static void *push_rows(void *argument) {
    const band *mine = argument;
    for (int32_t y = mine->first * STAGE_PX; y < mine->side_px; y += PUSHERS * STAGE_PX) {
        for (int32_t x = 0; x < mine->side_px; x += STAGE_PX) {
            push_one(mine, x, y);
        }
    }
    return NULL;
}

static void push_slide(pgrt_scan *scan, const uint8_t *pixels, int32_t side_px) {
    pthread_t threads[PUSHERS];
    band bands[PUSHERS];
    for (int number = 0; number < PUSHERS; number++) {
        bands[number] = (band){scan, pixels, side_px, number};
        if (pthread_create(&threads[number], NULL, push_rows, &bands[number]) != 0) {
            exit(EXIT_FAILURE);
        }
    }
    for (int number = 0; number < PUSHERS; number++) {
        pthread_join(threads[number], NULL);
    }
}

/* Two of ten slides do not end well: one is cancelled, one is freed as it is. */
static void run_slide(pgrt_predictor *predictor, const uint8_t *pixels, int32_t side_px, int slide,
                      int polls) {
    pgrt_scan *scan = NULL;
    pgrt_report *interim = NULL, *report = NULL;
    pgrt_scan_options options = {.struct_size = sizeof options,
                                 .width_px = side_px,
                                 .height_px = side_px,
                                 .mpp = 0.5};
    require(pgrt_scan_begin(predictor, &options, &scan), "scan");
    push_slide(scan, pixels, side_px);
    for (int number = 0; number < polls; number++) {
        require(pgrt_poll(scan, &interim), "poll");
        pgrt_report_free(interim);
    }
    if (slide % 10 == 4) {
        require(pgrt_cancel(scan), "cancel");
    } else if (slide % 10 != 9) {
        require(pgrt_finish(scan, 120, &report), "finish");
    }
    pgrt_report_free(report);
    pgrt_scan_free(scan);
}

static long status_field(const char *name) {
    char line[256];
    long value = -1;
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, name, strlen(name)) == 0) {
            value = strtol(line + strlen(name) + 1, NULL, 10);
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return value;
}

static int open_files(void) {
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (folder != NULL && readdir(folder) != NULL) {
        count++;
    }
    if (folder != NULL) {
        closedir(folder);
    }
    return count - 3; /* ".", ".." and the folder itself */
}

int main(int count, char **arguments) {
    pgrt_predictor *predictor = NULL;
    if (count != 7) {
        return 2;
    }
    int32_t side_px = atoi(arguments[4]);
    size_t size = (size_t)3 * side_px * side_px;
    uint8_t *pixels = malloc(size);
    FILE *file = fopen(arguments[3], "rb");
    if (pixels == NULL || file == NULL || fread(pixels, 1, size, file) != size) {
        return 2;
    }
    fclose(file);
    require(pgrt_init(arguments[1]), "init");
    require(pgrt_open(arguments[2], NULL, &predictor), "open");
    printf("slide,rss_kb,threads,files\n");
    for (int slide = 1; slide <= atoi(arguments[5]); slide++) {
        run_slide(predictor, pixels, side_px, slide, atoi(arguments[6]));
        printf("%d,%ld,%ld,%d\n", slide, status_field("VmRSS"), status_field("Threads"),
               open_files());
        fflush(stdout);
    }
    pgrt_predictor_free(predictor);
    free(pixels);
    return 0;
}
