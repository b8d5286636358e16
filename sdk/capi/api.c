#include "calls.h"
#include "handles.h"
#include "python_start.h"

#include <fenv.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

_Static_assert(sizeof(void *) == 8, "handles are 64-bit numbers");

static _Thread_local call_error last_error;

static pgrt_status fail(pgrt_status status, const char *format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(last_error.text, sizeof last_error.text, format, values);
    va_end(values);
    return status;
}

static uint64_t as_number(const void *handle) { return (uint64_t)(uintptr_t)handle; }

static void *as_pointer(uint64_t handle) { return (void *)(uintptr_t)handle; }

/* The host may trap or round as it likes: Python and the engines run in the default mode, and the
 * host's is put back. */
static void enter(fenv_t *host) {
    fegetenv(host);
    fesetenv(FE_DFL_ENV);
}

static pgrt_status leave(const fenv_t *host, pgrt_status status) {
    fesetenv(host);
    return status;
}

static const char *const kind_names[] = {"", "predictor", "scan", "report"};

static pgrt_status hold(const void *handle, handle_kind kind, const void **data) {
    if (handle == NULL) {
        return fail(PGRT_E_HANDLE, "the %s is NULL", kind_names[kind]);
    }
    if (python_is_elsewhere(&last_error)) {
        return PGRT_E_ENGINE;
    }
    if (!handle_hold(as_number(handle), kind, data)) {
        return fail(PGRT_E_HANDLE, "%p is not an open %s: it was freed, or never one", handle,
                    kind_names[kind]);
    }
    return PGRT_OK;
}

static void release(uint64_t handle) {
    while (handle != 0 && handle_release(handle)) {
        call_free(handle, &last_error);
        handle = handle_retire(handle);
    }
}

/* End the making of a handle: give it to the host, or take it back where that failed. */
static pgrt_status give(uint64_t handle, pgrt_status status, void *out) {
    if (status == PGRT_OK) {
        memcpy(out, &(void *){as_pointer(handle)}, sizeof(void *));
    } else {
        handle_close(handle);
    }
    release(handle);
    return status;
}

static pgrt_status new_handle(handle_kind kind, uint64_t parent, uint64_t *handle) {
    *handle = handle_new(kind, parent);
    if (*handle == 0) {
        return fail(PGRT_E_INTERNAL, "no memory or no place left for another %s", kind_names[kind]);
    }
    return PGRT_OK;
}

static pgrt_status not_null(const void *pointer, const char *name) {
    return pointer != NULL ? PGRT_OK : fail(PGRT_E_USAGE, "%s is NULL", name);
}

/* What the host's options say, in a struct of our size; theirs may be NULL, newer, or as old as the
 * first header, of which it had `first` bytes. */
static pgrt_status read_options(void *ours, uint32_t known, uint32_t first, const void *theirs,
                                const char *name) {
    memset(ours, 0, known);
    if (theirs == NULL) {
        return PGRT_OK;
    }
    uint32_t given;
    memcpy(&given, theirs, sizeof given);
    if (given == first) {
        memcpy(ours, theirs, first);
        return PGRT_OK;
    }
    if (given < known || given > 4096) {
        return fail(PGRT_E_USAGE, "struct_size %u of %s cannot be; set it to sizeof(%s), %u", given,
                    name, name, known);
    }
    for (uint32_t at = known; at < given; at++) {
        if (((const char *)theirs)[at] != 0) {
            return fail(PGRT_E_USAGE, "%s sets a member at byte %u that this library, of ABI %d, "
                        "does not know; use a newer one", name, at, PGRT_ABI_VERSION);
        }
    }
    memcpy(ours, theirs, known);
    return PGRT_OK;
}

/* Fill the host's struct from ours; it keeps its struct_size, and what we do not know is zero. */
static pgrt_status fill(void *theirs, const void *ours, uint32_t known, const char *name) {
    uint32_t given;
    if (theirs == NULL) {
        return fail(PGRT_E_USAGE, "the %s to fill is NULL", name);
    }
    memcpy(&given, theirs, sizeof given);
    if (given < known || given > 4096) {
        return fail(PGRT_E_USAGE, "struct_size %u of %s cannot be; set it to sizeof(%s), %u", given,
                    name, name, known);
    }
    memset(theirs, 0, given);
    memcpy(theirs, ours, known);
    memcpy(theirs, &given, sizeof given);
    return PGRT_OK;
}

PGRT_API uint32_t pgrt_abi_version(void) { return PGRT_ABI_VERSION; }

PGRT_API const char *pgrt_version(void) { return PGRT_VERSION; }

PGRT_API const char *pgrt_last_error(void) { return last_error.text; }

PGRT_API pgrt_status pgrt_init(const char *home) {
    fenv_t host;
    enter(&host);
    return leave(&host, python_start(home, &last_error));
}

PGRT_API pgrt_status pgrt_set_log(pgrt_log_callback callback, void *user) {
    fenv_t host;
    enter(&host);
    pgrt_status status = python_start(NULL, &last_error);
    if (status == PGRT_OK) {
        status = call_set_log(callback, user, &last_error);
    }
    return leave(&host, status);
}

PGRT_API pgrt_status pgrt_add_reader(const char *library) {
    fenv_t host;
    enter(&host);
    pgrt_status status = not_null(library, "library");
    if (status == PGRT_OK) {
        status = python_start(NULL, &last_error);
    }
    if (status == PGRT_OK) {
        status = call_add_reader(library, &last_error);
    }
    return leave(&host, status);
}

static pgrt_status open_predictor(const char *bundle, const pgrt_open_options *theirs,
                                  pgrt_predictor **predictor) {
    pgrt_open_options options;
    uint64_t handle;
    pgrt_status status = not_null(bundle, "bundle");
    if (status == PGRT_OK) {
        status = read_options(&options, sizeof options, offsetof(pgrt_open_options, site), theirs,
                              "pgrt_open_options");
    }
    if (status == PGRT_OK) {
        status = python_start(NULL, &last_error);
    }
    if (status == PGRT_OK) {
        status = new_handle(KIND_PREDICTOR, 0, &handle);
    }
    if (status != PGRT_OK) {
        return status;
    }
    return give(handle, call_open(handle, bundle, &options, &last_error), predictor);
}

PGRT_API pgrt_status pgrt_open(const char *bundle, const pgrt_open_options *options,
                               pgrt_predictor **predictor) {
    fenv_t host;
    if (predictor == NULL) {
        return not_null(predictor, "predictor");
    }
    *predictor = NULL;
    enter(&host);
    return leave(&host, open_predictor(bundle, options, predictor));
}

static pgrt_status begin_scan(pgrt_predictor *predictor, const pgrt_scan_options *theirs,
                              pgrt_scan **scan) {
    pgrt_scan_options options;
    uint64_t handle, parent = as_number(predictor);
    pgrt_status status =
        read_options(&options, sizeof options, sizeof options, theirs, "pgrt_scan_options");
    if (status == PGRT_OK) {
        status = hold(predictor, KIND_PREDICTOR, NULL);
    }
    if (status != PGRT_OK) {
        return status;
    }
    status = new_handle(KIND_SCAN, parent, &handle);
    if (status != PGRT_OK) {
        release(parent);
        return status;
    }
    return give(handle, call_scan_begin(handle, parent, &options, &last_error), scan);
}

PGRT_API pgrt_status pgrt_scan_begin(pgrt_predictor *predictor, const pgrt_scan_options *options,
                                     pgrt_scan **scan) {
    fenv_t host;
    if (scan == NULL) {
        return not_null(scan, "scan");
    }
    *scan = NULL;
    enter(&host);
    return leave(&host, begin_scan(predictor, options, scan));
}

static pgrt_status check_pixels(const uint8_t *pixels, int32_t width_px, int32_t height_px,
                                int64_t stride_bytes, int32_t format) {
    if (pixels == NULL) {
        return not_null(pixels, "pixels");
    }
    if (format < PGRT_RGB || format > PGRT_BGRA) {
        return fail(PGRT_E_USAGE, "pixel format %d is unknown; choose PGRT_RGB, PGRT_RGBA, "
                    "PGRT_BGR or PGRT_BGRA", format);
    }
    if (width_px <= 0 || height_px <= 0) {
        return fail(PGRT_E_SCAN_INPUT, "a rectangle of %d x %d px is empty; push one pixel or more",
                    width_px, height_px);
    }
    int64_t row = (int64_t)width_px * (format == PGRT_RGB || format == PGRT_BGR ? 3 : 4);
    if (stride_bytes < row || stride_bytes > INT64_MAX / height_px) {
        return fail(PGRT_E_SCAN_INPUT, "a stride of %lld bytes cannot be: a row of %d px has %lld",
                    (long long)stride_bytes, width_px, (long long)row);
    }
    return PGRT_OK;
}

PGRT_API pgrt_status pgrt_push_tile(pgrt_scan *scan, const uint8_t *pixels, int32_t width_px,
                                    int32_t height_px, int64_t stride_bytes, int32_t format,
                                    int64_t x_px, int64_t y_px) {
    fenv_t host;
    enter(&host);
    pgrt_status status = hold(scan, KIND_SCAN, NULL);
    if (status == PGRT_OK) {
        status = check_pixels(pixels, width_px, height_px, stride_bytes, format);
        if (status == PGRT_OK) {
            status = call_push(as_number(scan), pixels, width_px, height_px, stride_bytes, format,
                               x_px, y_px, &last_error);
        }
        release(as_number(scan));
    }
    return leave(&host, status);
}

typedef struct {
    const char *slide; /* NULL: of a scan */
    const pgrt_predict_options *options;
    bool interim;
    double timeout_s;
} wanted_report;

static pgrt_status ask(uint64_t source, const wanted_report *wanted, uint64_t report,
                       const report_data **data) {
    if (wanted->slide != NULL) {
        return call_predict_file(source, wanted->slide, wanted->options, report, data, &last_error);
    }
    if (wanted->interim) {
        return call_poll(source, report, data, &last_error);
    }
    return call_finish(source, wanted->timeout_s, report, data, &last_error);
}

static pgrt_status get_report(const void *source, handle_kind kind, const wanted_report *wanted,
                              pgrt_report **out) {
    uint64_t report;
    const report_data *data = NULL;
    if (out == NULL) {
        return not_null(out, "report");
    }
    *out = NULL;
    pgrt_status status = hold(source, kind, NULL);
    if (status != PGRT_OK) {
        return status;
    }
    status = new_handle(KIND_REPORT, 0, &report);
    if (status == PGRT_OK) {
        status = ask(as_number(source), wanted, report, &data);
        handle_set_data(report, data);
        give(report, status, out);
    }
    release(as_number(source));
    return status;
}

PGRT_API pgrt_status pgrt_poll(pgrt_scan *scan, pgrt_report **report) {
    fenv_t host;
    enter(&host);
    wanted_report wanted = {.interim = true};
    return leave(&host, get_report(scan, KIND_SCAN, &wanted, report));
}

PGRT_API pgrt_status pgrt_finish(pgrt_scan *scan, double timeout_s, pgrt_report **report) {
    fenv_t host;
    enter(&host);
    wanted_report wanted = {.timeout_s = timeout_s};
    return leave(&host, get_report(scan, KIND_SCAN, &wanted, report));
}

PGRT_API pgrt_status pgrt_predict_file(pgrt_predictor *predictor, const char *slide,
                                       const pgrt_predict_options *theirs, pgrt_report **report) {
    fenv_t host;
    enter(&host);
    pgrt_predict_options options;
    wanted_report wanted = {.slide = slide, .options = &options};
    pgrt_status status = not_null(slide, "slide");
    if (status == PGRT_OK) {
        status = read_options(&options, sizeof options, sizeof options, theirs,
                              "pgrt_predict_options");
    }
    if (status == PGRT_OK) {
        status = get_report(predictor, KIND_PREDICTOR, &wanted, report);
    }
    return leave(&host, status);
}

PGRT_API pgrt_status pgrt_cancel(pgrt_scan *scan) {
    fenv_t host;
    enter(&host);
    pgrt_status status = hold(scan, KIND_SCAN, NULL);
    if (status == PGRT_OK) {
        status = call_cancel(as_number(scan), &last_error);
        release(as_number(scan));
    }
    return leave(&host, status);
}

PGRT_API pgrt_status pgrt_report_get_info(pgrt_report *report, pgrt_report_info *info) {
    const void *data;
    pgrt_status status = hold(report, KIND_REPORT, &data);
    if (status == PGRT_OK) {
        const report_data *made = data;
        status = fill(info, &made->info, sizeof made->info, "pgrt_report_info");
        release(as_number(report));
    }
    return status;
}

PGRT_API pgrt_status pgrt_report_get_prediction(pgrt_report *report, uint32_t index,
                                                pgrt_prediction *prediction) {
    const void *data;
    pgrt_status status = hold(report, KIND_REPORT, &data);
    if (status == PGRT_OK) {
        const report_data *made = data;
        if (index < made->info.prediction_count) {
            status = fill(prediction, &made->predictions[index], sizeof *prediction,
                          "pgrt_prediction");
        } else {
            status = fail(PGRT_E_USAGE, "prediction %u of a report with %u", index,
                          made->info.prediction_count);
        }
        release(as_number(report));
    }
    return status;
}

static void free_handle(const void *handle, handle_kind kind) {
    fenv_t host;
    if (handle == NULL) {
        return;
    }
    enter(&host);
    if (hold(handle, kind, NULL) == PGRT_OK) {
        if (handle_close(as_number(handle)) && kind == KIND_SCAN) {
            call_cancel(as_number(handle), &last_error); /* lets a pgrt_finish elsewhere return */
        }
        release(as_number(handle));
    }
    leave(&host, PGRT_OK);
}

PGRT_API void pgrt_report_free(pgrt_report *report) { free_handle(report, KIND_REPORT); }

PGRT_API void pgrt_scan_free(pgrt_scan *scan) {
    free_handle(scan, KIND_SCAN);
#ifdef __GLIBC__
    /* A scan's memory comes from several threads, of each of which glibc keeps a little: after 200
     * slides a hundredth of the process. */
    malloc_trim(0);
#endif
}

PGRT_API void pgrt_predictor_free(pgrt_predictor *predictor) {
    free_handle(predictor, KIND_PREDICTOR);
}
