// Tiles of the encoder cut out of decoded encoded tiles and reduced, as EncodedTiles.fill and PIL's
// Image.reduce do it on the CPU, to the bit. One thread makes one pixel; gridDim.y counts tiles.
//
// Compiled by compile_ptx.py into assemble.ptx. The tests compile this file as C++ too.

// As plan.py writes it: 32-bit words.
struct Geometry {
    int tile_px;            // side of the encoder's tile
    int factor;             // stored pixels along a side of one of its pixels
    unsigned amend;         // half of factor^2, added before dividing
    unsigned multiplier;    // 2^24 / factor^2, as PIL rounds it
    int level_wide, level_high;
    int stored_wide, stored_high;
    int background[3];
    int columns;            // of encoded tiles in a region's table
    int words;              // of one region: corner x, corner y, table
};

__device__ inline int clipped(int value) { return value < 0 ? 0 : value > 255 ? 255 : value; }

extern "C" __global__ void assemble_tiles(
    unsigned char* out,                   // [tiles, tile_px, tile_px, 3]
    const Geometry* geometry,
    const int* regions,                   // [tiles, words]; tables of places in stored, -1: missing
    const unsigned char* const* stored,   // RGB, or Y, Cb and Cr, [stored_high, stored_wide, 3] each
    const int* chroma)                    // [4, 256]: red of Cr, green of Cb, of Cr, blue of Cb; or 0
{
    const int pixel = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    const int side = geometry->tile_px;
    if (pixel >= side * side) return;
    const int* region = regions + (long long)blockIdx.y * geometry->words;
    const int left = region[0], top = region[1];
    const int* table = region + 2;
    const int wide = geometry->stored_wide, high = geometry->stored_high;
    const int first_column = (left > 0 ? left : 0) / wide, first_row = (top > 0 ? top : 0) / high;
    const int factor = geometry->factor;
    const int from_x = left + pixel % side * factor, from_y = top + pixel / side * factor;
    unsigned red = geometry->amend, green = geometry->amend, blue = geometry->amend;
    for (int y = from_y; y < from_y + factor; ++y) {
        for (int x = from_x; x < from_x + factor; ++x) {
            int place = -1;
            if (x >= 0 && y >= 0 && x < geometry->level_wide && y < geometry->level_high) {
                place = table[(y / high - first_row) * geometry->columns + x / wide - first_column];
            }
            if (place < 0) {
                red += geometry->background[0];
                green += geometry->background[1];
                blue += geometry->background[2];
                continue;
            }
            const unsigned char* rgb = stored[place] + ((long long)(y % high) * wide + x % wide) * 3;
            if (chroma) {
                const int light = rgb[0], cb = rgb[1], cr = rgb[2];
                red += clipped(light + chroma[cr]);
                green += clipped(light + ((chroma[256 + cb] + chroma[512 + cr]) >> 16));
                blue += clipped(light + chroma[768 + cb]);
            } else {
                red += rgb[0];
                green += rgb[1];
                blue += rgb[2];
            }
        }
    }
    unsigned char* to = out + ((long long)blockIdx.y * side * side + pixel) * 3;
    to[0] = (unsigned char)(red * geometry->multiplier >> 24);
    to[1] = (unsigned char)(green * geometry->multiplier >> 24);
    to[2] = (unsigned char)(blue * geometry->multiplier >> 24);
}
