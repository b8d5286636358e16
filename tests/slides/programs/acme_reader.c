/* A slide reader for the tests. A file is "ACME", what it does as one letter, two spaces and a zero;
 * int32 width, height, tile; for R the pixels, else of each tile its place and size in int64, and
 * then tiles in JPEG.
 *
 * R: regions; T: tiles; X: crashes at its 17th tile; D: says that tile 1 is damaged; E: cannot be
 * opened; N: another's after all; L: says a level that cannot be. */
#include "pathgene_rt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    FILE *file;
    char letter;
    int32_t size[3];
    int64_t columns;
    int reads;
    pgrt_reader_level level;
} acme;

static int32_t say(int32_t status, const char *what, char *error, uint64_t error_size) {
    snprintf(error, error_size, "%s", what);
    return status;
}

static int32_t matches(const char *path, const char *head, uint64_t head_size) {
    (void)path;
    return head_size >= 20 && memcmp(head, "ACME", 4) == 0;
}

static void close_slide(void *state) {
    acme *slide = state;
    fclose(slide->file);
    free(slide);
}

static int32_t open_slide(const char *path, pgrt_reader_slide *out, char *error,
                          uint64_t error_size) {
    char start[8];
    FILE *file = fopen(path, "rb");
    acme *slide = calloc(1, sizeof *slide);
    if (file == NULL || slide == NULL || fread(start, 1, 8, file) != 8 ||
        fread(slide->size, 4, 3, file) != 3) {
        return say(PGRT_E_SLIDE_OPEN, "cut short", error, error_size);
    }
    slide->file = file;
    slide->letter = start[4];
    if (start[4] == 'E' || start[4] == 'N') {
        close_slide(slide);
        return start[4] == 'N' ? PGRT_READER_OTHER_FORMAT
                               : say(PGRT_E_SLIDE_OPEN, "the key is\nmissing", error, error_size);
    }
    slide->columns = (slide->size[0] + slide->size[2] - 1) / slide->size[2];
    slide->level = (pgrt_reader_level){.width_px = start[4] == 'L' ? -1 : slide->size[0],
                                       .height_px = slide->size[1],
                                       .tile_width_px = slide->size[2],
                                       .tile_height_px = slide->size[2]};
    out->level_count = 1;
    out->levels = &slide->level;
    out->tile_format = PGRT_TILE_JPEG;
    out->mpp = 0.5;
    out->vendor = "acme";
    out->warning = "made for a test";
    out->state = slide;
    return PGRT_OK;
}
#ifdef REGIONS
static int32_t read_region(void *state, uint32_t level, int64_t x, int64_t y, int32_t width,
                           int32_t height, uint8_t *rgb, char *error, uint64_t error_size) {
    acme *slide = state;
    (void)level;
    for (int64_t row = 0; row < height; row++) {
        int64_t at = 20 + 3 * ((y + row) * slide->size[0] + x);
        if (pread(fileno(slide->file), rgb + 3 * width * row, 3 * (size_t)width, at) != 3 * width) {
            return say(PGRT_E_SLIDE_READ, "cut short", error, error_size);
        }
    }
    return PGRT_OK;
}
#else
static int32_t read_tile(void *state, uint32_t level, int64_t column, int64_t row, uint8_t *out,
                         uint64_t capacity, uint64_t *size, char *error, uint64_t error_size) {
    acme *slide = state;
    int64_t tile = row * slide->columns + column, place[2];
    (void)level;
    if (++slide->reads == 17 && slide->letter == 'X') {
        *(volatile int *)NULL = 0;
    }
    if (slide->letter == 'D' && tile == 1) {
        return say(PGRT_E_TILE_DECODE, "its checksum is wrong", error, error_size);
    }
    if (pread(fileno(slide->file), place, 16, 20 + 16 * tile) != 16 ||
        (uint64_t)place[1] > capacity ||
        pread(fileno(slide->file), out, (size_t)place[1], place[0]) != place[1]) {
        return say(PGRT_E_SLIDE_READ, "cut short", error, error_size);
    }
    *size = (uint64_t)place[1];
    return PGRT_OK;
}
#endif
static const char *const suffixes[] = {".acme", NULL};

static const pgrt_reader reader = {
    .struct_size = sizeof reader,
#ifdef VERSION
    .abi_version = VERSION,
#else
    .abi_version = PGRT_ABI_VERSION,
#endif
    .flags = PGRT_READER_ONE_THREAD,
    .name = "acme 1.2",
    .suffixes = suffixes,
    .matches = matches,
    .open = open_slide,
#ifdef REGIONS
    .read_region = read_region,
#else
    .read_tile = read_tile,
#endif
    .close = close_slide,
};

const pgrt_reader *pgrt_reader_entry(void);
const pgrt_reader *pgrt_reader_entry(void) { return &reader; }
