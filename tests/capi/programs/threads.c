/* Threads that push, poll, cancel, finish and free the same scans at random moments; every scan ends
 * in a report or in a stated error. threads HOME BUNDLE SLIDE.rgb SECONDS [SEED] */
#define _POSIX_C_SOURCE 200809L
#include "host.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

enum { SLOTS = 4, THREADS = 8 };

static pgrt_predictor *predictor;
static const uint8_t *pixels;
static _Atomic(pgrt_scan *) scans[SLOTS]; /* freed ones stay here until another takes the place */
static atomic_bool stop;
static atomic_long reports, errors, pushes, unstated;

static uint32_t next_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* Errors that a caller must be ready for when others finish, cancel and free the scan it uses. */
static void expect(pgrt_status status) {
    switch (status) {
    case PGRT_OK:
    case PGRT_BUSY:
        return;
    case PGRT_E_HANDLE:
    case PGRT_E_CANCELLED:
    case PGRT_E_SCAN_STATE:
    case PGRT_E_SCAN_TIMEOUT:
    case PGRT_E_NO_TISSUE:
        atomic_fetch_add(&errors, 1);
        return;
    default:
        atomic_fetch_add(&unstated, 1);
        fprintf(stderr, "status %d: %s\n", status, pgrt_last_error());
    }
}

static void begin_anew(int slot) {
    pgrt_scan *scan = NULL;
    pgrt_scan_options options = {.struct_size = sizeof options,
                                 .width_px = SIDE_PX,
                                 .height_px = SIDE_PX,
                                 .mpp = 0.5,
                                 .waiting_tiles = 32};
    pgrt_status status = pgrt_scan_begin(predictor, &options, &scan);
    expect(status);
    if (status == PGRT_OK) {
        pgrt_scan_free(atomic_exchange(&scans[slot], scan));
    }
}

static pgrt_status push_somewhere(pgrt_scan *scan, uint64_t *state) {
    int32_t width = 1 + (int32_t)(next_random(state) % 400);
    int32_t height = 1 + (int32_t)(next_random(state) % 400);
    int32_t x = (int32_t)(next_random(state) % (uint32_t)(SIDE_PX - width + 1));
    int32_t y = (int32_t)(next_random(state) % (uint32_t)(SIDE_PX - height + 1));
    pgrt_status status =
        pgrt_push_tile(scan, pixels + 3 * ((size_t)y * SIDE_PX + (size_t)x), width, height,
                       3 * SIDE_PX, PGRT_RGB, x, y);
    expect(status);
    atomic_fetch_add(&pushes, status == PGRT_OK);
    return status;
}

static pgrt_status ask_for_report(pgrt_scan *scan, bool final, uint64_t *state) {
    pgrt_report *report = NULL;
    pgrt_status status = final ? pgrt_finish(scan, next_random(state) % 100 / 50.0, &report)
                               : pgrt_poll(scan, &report);
    expect(status);
    if (status == PGRT_OK) {
        pgrt_report_info info = {.struct_size = sizeof info};
        expect(pgrt_report_get_info(report, &info));
        atomic_fetch_add(&reports, final);
    }
    pgrt_report_free(report);
    return status;
}

static void *disturb(void *argument) {
    uint64_t state = (uint64_t)(uintptr_t)argument;
    while (!atomic_load(&stop)) {
        int slot = (int)(next_random(&state) % SLOTS);
        pgrt_scan *scan = atomic_load(&scans[slot]);
        pgrt_status status = PGRT_OK;
        uint32_t dice = next_random(&state) % 1000;
        if (scan == NULL || dice < 2) {
            begin_anew(slot);
        } else if (dice < 4) {
            pgrt_scan_free(scan); /* and all others use it on */
        } else if (dice < 6) {
            expect(pgrt_cancel(scan));
        } else if (dice < 16) {
            status = ask_for_report(scan, true, &state);
            if (status == PGRT_OK) {
                begin_anew(slot);
            }
        } else if (dice < 40) {
            ask_for_report(scan, false, &state);
        } else {
            status = push_somewhere(scan, &state);
        }
        if (status == PGRT_E_HANDLE || status == PGRT_E_CANCELLED) {
            begin_anew(slot);
        } else if (status != PGRT_OK) {
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); /* it is busy or finishing */
        }
    }
    return NULL;
}

int main(int count, char **arguments) {
    pthread_t threads[THREADS];
    if (count < 5) {
        return 2;
    }
    pixels = read_slide(arguments[3]);
    CHECK(pgrt_init(arguments[1]) == PGRT_OK);
    predictor = open_bundle(arguments[2]);
    uint64_t seed = count > 5 ? strtoull(arguments[5], NULL, 10) : 1;
    for (uint64_t number = 0; number < THREADS; number++) {
        CHECK(pthread_create(&threads[number], NULL, disturb,
                             (void *)(uintptr_t)(seed * THREADS + number)) == 0);
    }
    double seconds = strtod(arguments[4], NULL);
    struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&time, NULL);
    atomic_store(&stop, true);
    for (int number = 0; number < THREADS; number++) {
        pthread_join(threads[number], NULL);
    }
    for (int slot = 0; slot < SLOTS; slot++) {
        pgrt_scan_free(atomic_load(&scans[slot]));
    }
    pgrt_predictor_free(predictor);
    printf("%ld pushes, %ld reports, %ld stated errors, %ld others\n", pushes, reports, errors,
           unstated);
    return failures != 0 || unstated != 0 || reports == 0;
}
