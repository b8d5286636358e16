/* What C calls in Python (calls.py). Handles are numbers here; Python keeps the objects by them. */
#ifndef PGRT_CALLS_H
#define PGRT_CALLS_H

#include "pathgene_rt.h"

/* ---- Types ---- */

enum { CALL_STARTED = 1 };

typedef struct call_error {
    char text[1024]; /* UTF-8, cut at a whole character, ends with a zero */
} call_error;

/* A report as C reads it; Python owns it as long as it holds the report's handle. */
typedef struct report_data {
    pgrt_report_info info;
    const pgrt_prediction *predictions; /* [info.prediction_count] */
} report_data;

/* ---- Functions ---- */

/* The first call, which makes cffi load calls.py; CALL_STARTED unless that failed. own: Python runs
 * for this library alone. */
int32_t call_start(int32_t own);

/* Each returns a pgrt_status, and says in *error why if that is an error. */
int32_t call_set_log(pgrt_log_callback callback, void *user, call_error *error);
int32_t call_add_reader(const char *library, call_error *error);
int32_t call_open(uint64_t predictor, const char *bundle, const pgrt_open_options *options,
                  call_error *error);
int32_t call_scan_begin(uint64_t scan, uint64_t predictor, const pgrt_scan_options *options,
                        call_error *error);
int32_t call_push(uint64_t scan, const uint8_t *pixels, int32_t width_px, int32_t height_px,
                  int64_t stride_bytes, int32_t format, int64_t x_px, int64_t y_px,
                  call_error *error);
int32_t call_poll(uint64_t scan, uint64_t report, const report_data **data, call_error *error);
int32_t call_finish(uint64_t scan, double timeout_s, uint64_t report, const report_data **data,
                    call_error *error);
int32_t call_cancel(uint64_t scan, call_error *error);
int32_t call_predict_file(uint64_t predictor, const char *slide,
                          const pgrt_predict_options *options, uint64_t report,
                          const report_data **data, call_error *error);
int32_t call_free(uint64_t handle, call_error *error);

#endif
