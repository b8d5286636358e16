/* A child that is forked while scans run in other threads is told so, at once, by every function. */
#include "pathgene_rt.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int wrong;

static void expect(const char *call, pgrt_status status) {
    if (status != PGRT_E_ENGINE || strstr(pgrt_last_error(), "was forked from") == NULL) {
        printf("%s gave %d: %s\n", call, (int)status, pgrt_last_error());
        wrong++;
    }
}

static int child(const char *bundle, pgrt_predictor *predictor, pgrt_scan *scan) {
    pgrt_predictor *other;
    pgrt_scan_options options = {.struct_size = sizeof options, .mpp = 0.5};
    pgrt_scan *another;
    pgrt_report *report;
    static uint8_t pixels[64 * 64 * 3];
    alarm(20);
    expect("pgrt_init", pgrt_init(NULL));
    expect("pgrt_set_log", pgrt_set_log(NULL, NULL));
    expect("pgrt_open", pgrt_open(bundle, NULL, &other));
    expect("pgrt_scan_begin", pgrt_scan_begin(predictor, &options, &another));
    expect("pgrt_push_tile", pgrt_push_tile(scan, pixels, 64, 64, 192, PGRT_RGB, 0, 0));
    expect("pgrt_poll", pgrt_poll(scan, &report));
    expect("pgrt_finish", pgrt_finish(scan, 1.0, &report));
    expect("pgrt_predict_file", pgrt_predict_file(predictor, "slide.svs", NULL, &report));
    expect("pgrt_cancel", pgrt_cancel(scan));
    pgrt_scan_free(scan);
    pgrt_predictor_free(predictor);
    return wrong;
}

int main(int count, char **arguments) {
    pgrt_predictor *predictor = NULL;
    pgrt_scan *scan = NULL;
    pgrt_scan_options options = {.struct_size = sizeof options, .mpp = 0.5};
    int ended = 0;
    if (count != 3 || pgrt_init(arguments[1]) != PGRT_OK ||
        pgrt_open(arguments[2], NULL, &predictor) != PGRT_OK ||
        pgrt_scan_begin(predictor, &options, &scan) != PGRT_OK) {
        printf("cannot begin: %s\n", pgrt_last_error());
        return 1;
    }
    fflush(stdout);
    pid_t forked = fork();
    if (forked == 0) {
        int found = child(arguments[2], predictor, scan);
        fflush(stdout);
        _exit(found);
    }
    waitpid(forked, &ended, 0);
    pgrt_scan_free(scan);
    pgrt_predictor_free(predictor);
    if (!WIFEXITED(ended) || WEXITSTATUS(ended) != 0) {
        printf("the child ended with %d\n", ended);
        return 1;
    }
    puts("ok");
    return 0;
}
