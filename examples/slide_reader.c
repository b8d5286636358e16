/* A whole slide reader: binary PPM pictures ("P6"), as another format would be read.
 *
 *     gcc -std=c11 -O2 -fPIC -shared -I capi slide_reader.c -o ppm_reader.so
 *     PATHGENE_RT_READERS=$PWD/ppm_reader.so pathgene-rt predict slide.ppm --mpp 0.5 ...
 */
#include "pathgene_rt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    FILE *file;
    long pixels; /* where they begin */
    pgrt_reader_level level;
} ppm;

static int32_t refuse(int32_t status, const char *why, char *error, uint64_t error_size) {
    snprintf(error, error_size, "%s", why);
    return status;
}

static int32_t matches(const char *path, const char *head, uint64_t head_size) {
    (void)path;
    return head_size > 2 && memcmp(head, "P6", 2) == 0;
}

static void close_ppm(void *state) {
    ppm *slide = state;
    fclose(slide->file);
    free(slide);
}

static int32_t open_ppm(const char *path, pgrt_reader_slide *out, char *error,
                        uint64_t error_size) {
    int width, height, most;
    ppm *slide = calloc(1, sizeof *slide);
    if (slide == NULL || (slide->file = fopen(path, "rb")) == NULL) {
        free(slide);
        return refuse(PGRT_E_SLIDE_OPEN, "no memory, or no such file", error, error_size);
    }
    if (fscanf(slide->file, "P6 %d %d %d", &width, &height, &most) != 3 || most != 255) {
        close_ppm(slide);
        return PGRT_READER_OTHER_FORMAT;
    }
    slide->pixels = ftell(slide->file) + 1;
    slide->level = (pgrt_reader_level){.width_px = width, .height_px = height};
    out->level_count = 1;
    out->levels = &slide->level;
    out->state = slide;
    return PGRT_OK; /* out->mpp stays 0: the format does not say it, so the user must */
}

static int32_t read_ppm(void *state, uint32_t level, int64_t x_px, int64_t y_px, int32_t width_px,
                        int32_t height_px, uint8_t *rgb, char *error, uint64_t error_size) {
    ppm *slide = state;
    size_t row = 3 * (size_t)width_px;
    (void)level;
    for (int32_t y = 0; y < height_px; y++) {
        long at = slide->pixels + 3 * (long)((y_px + y) * slide->level.width_px + x_px);
        if (fseek(slide->file, at, SEEK_SET) != 0 ||
            fread(rgb + row * (size_t)y, 1, row, slide->file) != row) {
            return refuse(PGRT_E_TILE_DECODE, "the file ends here", error, error_size);
        }
    }
    return PGRT_OK;
}

static const char *const suffixes[] = {".ppm", NULL};

static const pgrt_reader reader = {
    .struct_size = sizeof reader,
    .abi_version = PGRT_ABI_VERSION,
    .flags = PGRT_READER_ONE_THREAD, /* they share a position in the file */
    .name = "ppm 1.0",
    .suffixes = suffixes,
    .matches = matches,
    .open = open_ppm,
    .read_region = read_ppm,
    .close = close_ppm,
};

const pgrt_reader *pgrt_reader_entry(void);
const pgrt_reader *pgrt_reader_entry(void) { return &reader; }
