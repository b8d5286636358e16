/* A scanner's software in small: two threads push fields of view in scan order, the main thread prints
 * what the heads say meanwhile and in the end.
 *
 *     PGRT_HOME=/opt/pathgene ./scanner lung.pgrt slide.ppm 0.5
 *
 * slide.ppm (binary PPM, P6) stands for the camera; 0.5 is its scale in micrometres a pixel.
 */
#define _FILE_OFFSET_BITS 64
#define _POSIX_C_SOURCE 200809L
#include "pathgene_rt.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { STAGE_PX = 480, OVERLAP_PX = 16, PUSHERS = 2 };

typedef struct {
    const char *path;
    long long pixels_at; /* byte of the first pixel */
    int32_t width_px, height_px;
} image;

typedef struct {
    image camera;
    pgrt_scan *scan;
    pthread_mutex_t lock; /* of what follows */
    int32_t next, count, columns;
    int running;
    bool failed;
} acquisition;

static void pause_ms(long milliseconds) {
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&time, NULL);
}

static bool told(const char *doing, pgrt_status status) {
    if (status == PGRT_OK) {
        return true;
    }
    fprintf(stderr, "%s: %s (status %d)\n", doing, pgrt_last_error(), status);
    return false;
}

static void log_line(void *user, int32_t level, const char *message) {
    (void)user;
    fprintf(stderr, "pathgene-rt [%d] %s\n", level, message);
}

static bool open_image(image *camera, const char *path) {
    FILE *file = fopen(path, "rb");
    int deepest = 0;
    bool readable = file != NULL &&
                    fscanf(file, "P6 %d %d %d", &camera->width_px, &camera->height_px, &deepest) == 3 &&
                    deepest == 255 && fgetc(file) != EOF;
    if (readable) {
        camera->path = path;
        camera->pixels_at = ftello(file);
    } else {
        fprintf(stderr, "%s is no binary PPM of 8 bits\n", path);
    }
    if (file != NULL) {
        fclose(file);
    }
    return readable;
}

static bool expose(const image *camera, FILE *file, int32_t x, int32_t y, int32_t width,
                   int32_t height, uint8_t *rgb) {
    for (int32_t row = 0; row < height; row++) {
        long long at = camera->pixels_at + 3 * ((long long)(y + row) * camera->width_px + x);
        if (fseeko(file, (off_t)at, SEEK_SET) != 0 ||
            fread(rgb + (size_t)row * 3 * STAGE_PX, 3, (size_t)width, file) != (size_t)width) {
            fprintf(stderr, "%s ends early\n", camera->path);
            return false;
        }
    }
    return true;
}

/* Serpentine: every other row of fields of view from right to left. */
static void stage_place(const acquisition *run, int32_t number, int32_t *x, int32_t *y) {
    int32_t row = number / run->columns, column = number % run->columns;
    *y = row * (STAGE_PX - OVERLAP_PX);
    *x = (row % 2 ? run->columns - 1 - column : column) * (STAGE_PX - OVERLAP_PX);
}

static int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }

static bool push_stage_tile(acquisition *run, FILE *file, int32_t number, uint8_t *rgb) {
    int32_t x, y;
    stage_place(run, number, &x, &y);
    int32_t width = smaller(STAGE_PX, run->camera.width_px - x);
    int32_t height = smaller(STAGE_PX, run->camera.height_px - y);
    if (!expose(&run->camera, file, x, y, width, height, rgb)) {
        return false;
    }
    pgrt_status status;
    while ((status = pgrt_push_tile(run->scan, rgb, width, height, 3 * STAGE_PX, PGRT_RGB, x, y)) ==
           PGRT_BUSY) {
        pause_ms(5); /* a stage would wait, or keep the tile and go on */
    }
    return told("push", status);
}

static void *push_tiles(void *argument) {
    acquisition *run = argument;
    FILE *file = fopen(run->camera.path, "rb");
    uint8_t *rgb = malloc((size_t)3 * STAGE_PX * STAGE_PX);
    bool good = file != NULL && rgb != NULL;
    while (good) {
        pthread_mutex_lock(&run->lock);
        int32_t number = run->failed ? run->count : run->next++;
        pthread_mutex_unlock(&run->lock);
        if (number >= run->count) {
            break;
        }
        good = push_stage_tile(run, file, number, rgb);
    }
    pthread_mutex_lock(&run->lock);
    run->failed |= !good;
    run->running--;
    pthread_mutex_unlock(&run->lock);
    free(rgb);
    if (file != NULL) {
        fclose(file);
    }
    return NULL;
}

static void print_report(const char *when, pgrt_report *report) {
    pgrt_report_info info = {.struct_size = sizeof info};
    if (!told("report", pgrt_report_get_info(report, &info))) {
        return;
    }
    printf("%s, %llu tiles\n", when, (unsigned long long)info.tiles);
    for (uint32_t number = 0; number < info.prediction_count; number++) {
        pgrt_prediction one = {.struct_size = sizeof one};
        if (!told("prediction", pgrt_report_get_prediction(report, number, &one))) {
            return;
        }
        printf("  %-12s %-12s", one.head, one.call);
        for (uint32_t class = 0; class < one.class_count; class++) {
            printf("  %s %.3f", one.classes[class], one.probabilities[class]);
            if (one.interval_low != NULL) {
                printf(" [%.3f, %.3f]", one.interval_low[class], one.interval_high[class]);
            }
        }
        printf("\n");
    }
    fflush(stdout);
}

/* What the heads say every half second, until all is pushed. */
static void watch(acquisition *run) {
    for (bool pushing = true; pushing;) {
        pgrt_report *interim = NULL;
        pause_ms(500);
        pthread_mutex_lock(&run->lock);
        pushing = run->running > 0;
        pthread_mutex_unlock(&run->lock);
        if (told("poll", pgrt_poll(run->scan, &interim))) {
            print_report("interim", interim);
        }
        pgrt_report_free(interim);
    }
}

static bool acquire(acquisition *run) {
    pthread_t pushers[PUSHERS];
    int32_t step = STAGE_PX - OVERLAP_PX;
    run->columns = (run->camera.width_px + step - 1) / step;
    run->count = run->columns * ((run->camera.height_px + step - 1) / step);
    for (int started = 0; started < PUSHERS; started++) {
        run->running++;
        if (pthread_create(&pushers[started], NULL, push_tiles, run) != 0) {
            fprintf(stderr, "no thread to push with\n");
            exit(EXIT_FAILURE);
        }
    }
    watch(run);
    for (int number = 0; number < PUSHERS; number++) {
        pthread_join(pushers[number], NULL);
    }
    return !run->failed;
}

static bool scan_slide(pgrt_predictor *predictor, const char *path, double mpp) {
    acquisition run = {.lock = PTHREAD_MUTEX_INITIALIZER};
    pgrt_report *report = NULL;
    if (!open_image(&run.camera, path)) {
        return false;
    }
    pgrt_scan_options options = {.struct_size = sizeof options,
                                 .width_px = run.camera.width_px,
                                 .height_px = run.camera.height_px,
                                 .mpp = mpp,
                                 .slide_id = "example"};
    bool good = told("scan", pgrt_scan_begin(predictor, &options, &run.scan)) && acquire(&run) &&
                told("finish", pgrt_finish(run.scan, 600, &report));
    if (good) {
        print_report("final", report);
    }
    pgrt_report_free(report);
    pgrt_scan_free(run.scan);
    return good;
}

int main(int count, char **arguments) {
    pgrt_predictor *predictor = NULL;
    if (count != 4) {
        fprintf(stderr, "usage: %s BUNDLE SLIDE.ppm MPP\n", arguments[0]);
        return 2;
    }
    if (pgrt_abi_version() != PGRT_ABI_VERSION) {
        fprintf(stderr, "the library has ABI %u, this program was made for %d\n",
                pgrt_abi_version(), PGRT_ABI_VERSION);
        return EXIT_FAILURE;
    }
    printf("pathgene-rt %s, ABI %u\n", pgrt_version(), pgrt_abi_version());
    bool good = told("init", pgrt_init(NULL)) && told("log", pgrt_set_log(log_line, NULL)) &&
                told("open", pgrt_open(arguments[1], NULL, &predictor)) &&
                scan_slide(predictor, arguments[2], strtod(arguments[3], NULL));
    pgrt_predictor_free(predictor);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
