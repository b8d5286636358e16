/* A slide through the library leaves the host's process as it was: signals, locale, floating point,
 * working folder, environment, standard output. safety HOME BUNDLE SLIDE.rgb SLIDE.svs */
#define _GNU_SOURCE
#include "host.h"

#include <fenv.h>
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

extern char **environ;

typedef struct {
    struct sigaction actions[NSIG];
    sigset_t blocked;
    char locale[256], folder[4096];
    char *variables[512];
} process;

static void look(process *now) {
    memset(now, 0, sizeof *now);
    for (int number = 1; number < NSIG; number++) {
        sigaction(number, NULL, &now->actions[number]);
    }
    pthread_sigmask(SIG_SETMASK, NULL, &now->blocked);
    snprintf(now->locale, sizeof now->locale, "%s", setlocale(LC_ALL, NULL));
    if (getcwd(now->folder, sizeof now->folder) == NULL) {
        exit(2);
    }
    for (int at = 0; environ[at] != NULL && at < 511; at++) {
        now->variables[at] = environ[at];
    }
}

static void compare(const process *before, const process *after) {
    for (int number = 1; number < NSIG; number++) {
        if (before->actions[number].sa_handler != after->actions[number].sa_handler) {
            failures++;
            fprintf(stderr, "signal %d has another handler\n", number);
        }
    }
    CHECK(memcmp(&before->blocked, &after->blocked, sizeof before->blocked) == 0);
    CHECK(strcmp(before->locale, after->locale) == 0);
    CHECK(strcmp(before->folder, after->folder) == 0);
    CHECK(memcmp(before->variables, after->variables, sizeof before->variables) == 0);
}

/* A host that rounds up, traps and flushes denormals: nothing of ours may trap, and nothing of it
 * may have changed after any call. */
static void set_mode(void) {
    fesetround(FE_UPWARD);
#if defined(__SSE__)
    _mm_setcsr(_mm_getcsr() | 0x8040);
#endif
    feenableexcept(FE_DIVBYZERO | FE_INVALID | FE_OVERFLOW);
}

static void check_mode(void) {
    CHECK(fegetround() == FE_UPWARD);
    CHECK(fegetexcept() == (FE_DIVBYZERO | FE_INVALID | FE_OVERFLOW));
#if defined(__SSE__)
    CHECK((_mm_getcsr() & 0x8040) == 0x8040);
#endif
}

static int messages;

static void log_line(void *user, int32_t level, const char *message) {
    CHECK(user == &messages && level >= PGRT_LOG_ERROR && level <= PGRT_LOG_INFO);
    CHECK(message != NULL);
    messages++;
}

static uint64_t last_known;

static void progress(void *user, uint64_t encoded, uint64_t known) {
    CHECK(user == &last_known && encoded <= known);
    last_known = known;
}

int main(int count, char **arguments) {
    static process before, after;
    if (count != 5) {
        return 2;
    }
    uint8_t *pixels = read_slide(arguments[3]);
    setlocale(LC_ALL, "C");
    look(&before);
    set_mode();

    CHECK(pgrt_init("/no/such/folder") == PGRT_E_HOME);
    check_mode();
    CHECK(pgrt_init(arguments[1]) == PGRT_OK);
    check_mode();
    CHECK(pgrt_set_log(log_line, &messages) == PGRT_OK);
    pgrt_predictor *predictor = open_bundle(arguments[2]);
    check_mode();
    pgrt_scan *scan = NULL;
    pgrt_scan_options options = {.struct_size = sizeof options,
                                 .width_px = SIDE_PX,
                                 .height_px = SIDE_PX,
                                 .mpp = 0.5,
                                 .progress = progress,
                                 .progress_user = &last_known};
    CHECK(pgrt_scan_begin(predictor, &options, &scan) == PGRT_OK);
    check_mode();
    CHECK(push_all(scan, pixels) == PGRT_OK);
    check_mode();
    pgrt_report *interim = NULL, *report = NULL;
    CHECK(pgrt_poll(scan, &interim) == PGRT_OK);
    check_mode();
    CHECK(pgrt_finish(scan, 60, &report) == PGRT_OK);
    check_mode();
    pgrt_report_info info = {.struct_size = sizeof info};
    CHECK(pgrt_report_get_info(interim, &info) == PGRT_OK && info.partial == 1);
    CHECK(pgrt_report_get_info(report, &info) == PGRT_OK && info.partial == 0);
    CHECK(pgrt_push_tile(scan, pixels, 8, 8, 24, PGRT_RGB, 0, 0) == PGRT_E_SCAN_STATE);
    check_mode();
    pgrt_report_free(interim);
    pgrt_report_free(report);
    pgrt_scan_free(scan);

    pgrt_predict_options of_file = {
        .struct_size = sizeof of_file, .progress = progress, .progress_user = &last_known};
    last_known = 0;
    CHECK(pgrt_predict_file(predictor, arguments[4], &of_file, &report) == PGRT_OK);
    check_mode();
    CHECK(pgrt_report_get_info(report, &info) == PGRT_OK && info.tiles > 50);
    CHECK(last_known >= info.tiles);
    pgrt_report_free(report);
    pgrt_predictor_free(predictor);
    check_mode();

    feclearexcept(FE_ALL_EXCEPT);
    fesetenv(FE_DFL_ENV);
    look(&after);
    compare(&before, &after);
    free(pixels);
    return failures != 0;
}
