/* pathgene_rt.h: tiles in while a slide is scanned, predictions out; inside the scanner's process.
 *
 * Threads. Every function may be called from any thread, and one handle from many threads at once.
 * pgrt_push_tile, pgrt_poll and pgrt_cancel never wait for the encoder; pgrt_open, pgrt_finish and
 * pgrt_predict_file do. pgrt_last_error speaks of the calling thread alone. Callbacks come from the
 * library's threads, several at a time: they must return soon, and must not free the handle they
 * belong to. Freeing a handle that other threads still use is safe: their calls end first, a
 * pgrt_finish as cancelled. Do not unload the library. A process that is forked from one that has
 * called pgrt_init cannot use it: every function says so at once (PGRT_E_ENGINE).
 *
 * Memory. The library copies what it is given before it returns. What it gives belongs to the
 * report it came from and is valid until that is freed. Strings are UTF-8 and end with a zero.
 *
 * The host. No exception leaves the library; it does not exit, install signal handlers, write to
 * standard output, or change locale, working folder or floating-point mode of the caller.
 *
 * Options. Fill the struct with zeros, set struct_size to its sizeof, then what differs: zero is
 * always the default. A library older than the header refuses only members that it does not know
 * and that are not zero; a newer one takes the structs of older headers.
 */
#ifndef PATHGENE_RT_H
#define PATHGENE_RT_H

#include <stdint.h>

#define PGRT_ABI_VERSION 1

#if defined(_WIN32) && defined(PGRT_BUILD)
#define PGRT_API __declspec(dllexport)
#elif defined(_WIN32)
#define PGRT_API __declspec(dllimport)
#elif defined(PGRT_BUILD)
#define PGRT_API __attribute__((visibility("default")))
#else
#define PGRT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Types ---- */

/* What a function returns. PGRT_OK is success, PGRT_BUSY is no failure; every other value is an
 * error that pgrt_last_error explains. */
typedef int32_t pgrt_status;
enum {
    PGRT_OK = 0,
    PGRT_E_GENERAL = 1,
    PGRT_E_USAGE = 10,   /* an argument that makes no sense */
    PGRT_E_OUTPUT = 11,  /* a place that cannot be written */
    PGRT_E_SLIDE = 20,
    PGRT_E_SLIDE_OPEN = 21,
    PGRT_E_SLIDE_READ = 22,
    PGRT_E_SLIDE_SCALE = 23, /* no mpp, or one that the bundle's encoder was not made for */
    PGRT_E_NO_TISSUE = 24,
    PGRT_E_FEATURE_FILE = 25,
    PGRT_E_BAG = 26,
    PGRT_E_TILE_DECODE = 27,
    PGRT_E_FILE_ACCESS = 28, /* another process has the file, no permission, or the disk fails */
    PGRT_E_BUNDLE = 30, /* damaged, hostile, or of an unknown schema version */
    PGRT_E_CHECKPOINT = 31,
    PGRT_E_ENGINE = 40,
    PGRT_E_ENGINE_UNAVAILABLE = 41,
    PGRT_E_MISSING_EXTRA = 42,
    PGRT_E_VERIFICATION = 50,
    PGRT_E_BATCH = 60,
    PGRT_E_CANCELLED = 70,
    PGRT_E_SCAN = 80,
    PGRT_E_SCAN_INPUT = 81,   /* pixels or a rectangle that cannot be; the scan goes on */
    PGRT_E_SCAN_STATE = 82,   /* too late: a push after finish, a second finish */
    PGRT_E_SCAN_MEMORY = 83,  /* tiles that are not whole need too much; the scan goes on */
    PGRT_E_SCAN_TIMEOUT = 84, /* no report in time; the scan goes on */
    PGRT_E_DRIFT = 90,        /* of the command line's monitor alone */
    PGRT_E_HANDLE = 1001,     /* freed, NULL, or never a handle of this kind */
    PGRT_E_HOME = 1002,       /* the Python environment cannot be used */
    PGRT_E_INTERNAL = 1003,   /* a defect of the library, or no memory left */
    PGRT_BUSY = 2001          /* nothing was taken; push the same pixels again later */
};

/* A bundle with its engines, a slide that is being scanned, a result. Handles are numbers in a
 * pointer's clothes: they must not be dereferenced, and a wrong one is an error, never a crash. */
typedef struct pgrt_predictor pgrt_predictor;
typedef struct pgrt_scan pgrt_scan;
typedef struct pgrt_report pgrt_report;

/* Order of a pixel's bytes in memory; alpha is not looked at. */
enum { PGRT_RGB = 1, PGRT_RGBA = 2, PGRT_BGR = 3, PGRT_BGRA = 4 };
enum { PGRT_LOG_ERROR = 1, PGRT_LOG_WARNING = 2, PGRT_LOG_INFO = 3 };

typedef void (*pgrt_log_callback)(void *user, int32_t level, const char *message);

/* Tiles encoded, of those known so far. */
typedef void (*pgrt_progress_callback)(void *user, uint64_t encoded, uint64_t known);

typedef struct pgrt_open_options {
    uint32_t struct_size;
    uint32_t threads;      /* of the encoder; 0: all cores it may use */
    uint32_t batch;        /* tiles an encoder call takes; 0: the library's choice */
    uint32_t reserved;     /* 0 */
    const char *engine;    /* "openvino", "onnxruntime"; NULL: the best that is there */
    const char *precision; /* "float32", "bfloat16", ...; NULL: what `pathgene-rt build` chose */
    const char *cache_dir; /* compiled engines; NULL: the user's cache folder, "": none */
    const char *site;      /* the profile NAME.site.json of this bundle by which heads answer, and
                              which every report names; NULL: as the bundle has them */
} pgrt_open_options;

typedef struct pgrt_scan_options {
    uint32_t struct_size;
    int32_t width_px; /* of the scanned area at level 0; 0 x 0 where it is not known yet */
    int32_t height_px;
    uint32_t has_background;
    uint8_t background[4]; /* RGB of what is not scanned, and 0; without has_background: white */
    uint32_t anonymize;    /* 1: a pseudonym takes the place of slide_id in every output; under the
                              key in the file that the environment variable
                              PATHGENE_RT_PSEUDONYM_KEY names, else at random for this scan.
                              Elsewhere this is called pseudonymize; the field keeps its name. */
    double mpp;            /* micrometres a pixel at level 0; must be given */
    const char *slide_id;  /* NULL: "scan" */
    uint64_t partial_bytes;          /* memory for tiles that are not whole; 0: 1 GiB */
    uint32_t waiting_tiles;          /* whole tiles that may wait before PGRT_BUSY; 0: 256 */
    uint32_t reserved;               /* 0 */
    pgrt_progress_callback progress; /* in a thread of the library while pgrt_finish waits */
    void *progress_user;
} pgrt_scan_options;

typedef struct pgrt_predict_options {
    uint32_t struct_size;
    uint32_t reserved; /* 0 */
    double mpp;        /* for a file that does not say it; 0: it does */
    const char *out;   /* a folder for report.json, heatmaps and GeoJSON; NULL: no files */
    pgrt_progress_callback progress; /* in a thread of the library */
    void *progress_user;
} pgrt_predict_options;

/* One head's answer. Set struct_size before the call. */
typedef struct pgrt_prediction {
    uint32_t struct_size;
    uint32_t class_count;
    const char *head;
    const char *task;           /* "mutation", "subtype", "exon", "tmb" or "other" */
    const char *gene;           /* NULL where the task has none */
    const char *call;           /* names of the called classes, or "none"; of a head with decision
                                   zones "positive", "negative" or "indeterminate"; or "withheld" */
    const char *const *classes; /* [class_count] */
    const double *probabilities; /* [class_count], calibrated */
    const double *interval_low;  /* [class_count], NULL where there is no interval */
    const double *interval_high;
    double threshold; /* NaN where none was applied */
    const char *reason; /* why, in English, of the calls of zones and of "withheld"; else NULL */
} pgrt_prediction;

typedef struct pgrt_report_info {
    uint32_t struct_size;
    uint32_t prediction_count;
    uint64_t tiles;   /* that the predictions are made of; not those that are left out */
    uint32_t partial; /* 1: interim, of the tiles encoded so far */
    uint32_t reserved;
    const char *json; /* the report as report.json has it; of pgrt_poll: where the scan stands */
} pgrt_report_info;

/* ---- A slide reader: what a shared library exports so that slides of its format are read ---- */

/* The library is loaded in another process, which may crash without harm, has no network, and can
 * change no file; docs/slides.md has a whole one, and says how a library is named. It exports
 *     const pgrt_reader *pgrt_reader_entry(void);
 * whose table and texts stay as they are. Functions write what went wrong into error, of error_size
 * bytes, in UTF-8 with a zero at its end; paths are UTF-8 on Windows, else as the system has them. */

enum { PGRT_READER_OTHER_FORMAT = -1 }; /* of open: the file is another's */
enum { PGRT_READER_ONE_THREAD = 1 };    /* a flag: no two functions of it at once */

/* Whole JPEG streams of YCbCr, or of RGB; JPEG 2000 codestreams of RGB. */
enum { PGRT_TILE_JPEG = 1, PGRT_TILE_JPEG_RGB = 2, PGRT_TILE_JPEG2000 = 3 };

typedef struct pgrt_reader_level {
    int64_t width_px;
    int64_t height_px;
    int32_t tile_width_px; /* of read_tile; tiles at the right and lower edge are as large */
    int32_t tile_height_px;
} pgrt_reader_level;

/* What open fills in; all zeros before, but for struct_size. */
typedef struct pgrt_reader_slide {
    uint32_t struct_size;
    uint32_t level_count;
    uint32_t tile_format; /* of read_tile: PGRT_TILE_... */
    uint32_t reserved;
    double mpp;                      /* micrometres a pixel of level 0; 0: the file does not say */
    const pgrt_reader_level *levels; /* [level_count], the largest first; until close */
    const char *vendor;              /* NULL: the reader's name */
    const char *warning;             /* for the report; NULL: none */
    void *state;                     /* the reader's own, for the functions below */
} pgrt_reader_slide;

typedef struct pgrt_reader {
    uint32_t struct_size;
    uint32_t abi_version; /* PGRT_ABI_VERSION */
    uint32_t flags;
    uint32_t reserved;
    const char *name;            /* with its version, for reports: "acme 1.2" */
    const char *const *suffixes; /* of file names, in lower case with their dot; NULL at the end */

    /* Whether the file, whose first bytes are head, may be of this format. NULL: by its suffix. */
    int32_t (*matches)(const char *path, const char *head, uint64_t head_size);

    /* PGRT_OK, PGRT_READER_OTHER_FORMAT, or an error. */
    int32_t (*open)(const char *path, pgrt_reader_slide *slide, char *error, uint64_t error_size);

    /* One of the two, from several threads at once unless flags forbid it. PGRT_OK;
     * PGRT_E_TILE_DECODE, which costs what touches this tile or region; any other: the slide.
     *
     * An encoded tile into out, of capacity bytes (more than its pixels have), and its size; 0 for
     * one that is not there, which is white. */
    int32_t (*read_tile)(void *state, uint32_t level, int64_t column, int64_t row, uint8_t *out,
                         uint64_t capacity, uint64_t *size, char *error, uint64_t error_size);

    /* Pixels of a region within the level: width_px * height_px * 3 bytes, RGB, row after row. */
    int32_t (*read_region)(void *state, uint32_t level, int64_t x_px, int64_t y_px,
                           int32_t width_px, int32_t height_px, uint8_t *rgb, char *error,
                           uint64_t error_size);

    void (*close)(void *state); /* once, when no other function runs on it */
} pgrt_reader;

/* ---- Functions, all since ABI version 1 ---- */

/* PGRT_ABI_VERSION of the library; the host should compare it with its header's. */
PGRT_API uint32_t pgrt_abi_version(void);

/* Version of pathgene-rt that the library was built from, as "0.1.0". */
PGRT_API const char *pgrt_version(void);

/* What failed in this thread's last call that did: one line, never NULL. Valid until the thread's
 * next failing call. */
PGRT_API const char *pgrt_last_error(void);

/* Start the runtime with the Python environment (virtual environment or prefix) in the folder home;
 * NULL: the environment variable PGRT_HOME. A process has one: a second call with another folder is
 * PGRT_E_HOME. Where the host runs Python itself, that interpreter is used, and home may be NULL.
 * pgrt_open and pgrt_set_log do it with NULL if the host has not. */
PGRT_API pgrt_status pgrt_init(const char *home);

/* Where messages go: what Python code prints or warns of, and errors in the library's threads.
 * NULL: nowhere. After it returns, the previous callback is not called any more. */
PGRT_API pgrt_status pgrt_set_log(pgrt_log_callback callback, void *user);

/* Have pgrt_predict_file ask the slide reader (pgrt_reader) in the shared library, too, for files of
 * formats that are not built in. It is loaded when such a file comes, in another process. */
PGRT_API pgrt_status pgrt_add_reader(const char *library);

/* Open and check a bundle and compile its engines: seconds. options may be NULL. */
PGRT_API pgrt_status pgrt_open(const char *bundle, const pgrt_open_options *options,
                               pgrt_predictor **predictor);

/* Begin a slide. One predictor serves several at once. */
PGRT_API pgrt_status pgrt_scan_begin(pgrt_predictor *predictor, const pgrt_scan_options *options,
                                     pgrt_scan **scan);

/* Hand over the rectangle of pixels whose top left corner is (x_px, y_px) at level 0: of any size,
 * in any order, overlapping, repeated. Rows are stride_bytes apart. Never waits: PGRT_BUSY means
 * that nothing was taken. The pixels may be reused at once. */
PGRT_API pgrt_status pgrt_push_tile(pgrt_scan *scan, const uint8_t *pixels, int32_t width_px,
                                    int32_t height_px, int64_t stride_bytes, int32_t format,
                                    int64_t x_px, int64_t y_px);

/* Where the scan stands, with what the heads say of the tiles encoded so far: no predictions as
 * long as there are none. Takes the time of the heads: milliseconds, seconds for some. */
PGRT_API pgrt_status pgrt_poll(pgrt_scan *scan, pgrt_report **report);

/* All was pushed: wait up to timeout_s seconds (negative: as long as it takes) for the report, which
 * is that of pgrt_predict_file for a file with these pixels (docs/scanner.md says where a file's
 * lower levels make a difference). After PGRT_E_SCAN_TIMEOUT call it again to wait on; nothing can
 * be pushed any more. */
PGRT_API pgrt_status pgrt_finish(pgrt_scan *scan, double timeout_s, pgrt_report **report);

/* Stop the slide; what waits in pgrt_finish returns PGRT_E_CANCELLED. */
PGRT_API pgrt_status pgrt_cancel(pgrt_scan *scan);

/* Predict a slide file, as `pathgene-rt predict` does. options may be NULL. */
PGRT_API pgrt_status pgrt_predict_file(pgrt_predictor *predictor, const char *slide,
                                       const pgrt_predict_options *options, pgrt_report **report);

/* Fill *info, or prediction number index of the report, up to the struct_size that was set. */
PGRT_API pgrt_status pgrt_report_get_info(pgrt_report *report, pgrt_report_info *info);
PGRT_API pgrt_status pgrt_report_get_prediction(pgrt_report *report, uint32_t index,
                                                pgrt_prediction *prediction);

/* Give a handle back. NULL is nothing to do; a wrong handle is left alone and told by
 * pgrt_last_error. A scan that was not finished is cancelled; a predictor's engines are freed with
 * the last of its scans. On glibc pgrt_scan_free then returns the process's free memory to the system
 * (malloc_trim): some milliseconds. */
PGRT_API void pgrt_report_free(pgrt_report *report);
PGRT_API void pgrt_scan_free(pgrt_scan *scan);
PGRT_API void pgrt_predictor_free(pgrt_predictor *predictor);

#ifdef __cplusplus
}
#endif
#endif
