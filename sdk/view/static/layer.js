/** Tiles with their measurements, as the server packs them, and finding them by place. */

const MAX_RASTER_SIDE = 2048;
const ON_GRID_PX = 1.5;

export class Layer {
  /** `buffer`: "PGTL", uint32 header length, header, int32 [N, 2], float32 [N] a column. */
  constructor(buffer) {
    const bytes = new Uint8Array(buffer);
    if (String.fromCharCode(...bytes.subarray(0, 4)) !== "PGTL") throw new Error("no tile layer");
    const length = new DataView(buffer).getUint32(4, true);
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
    let at = 8 + length;
    this.tiles = header.tiles;
    this.span = header.span_px;
    this.size = header.size_px;
    this.xy = new Int32Array(buffer, at, 2 * this.tiles);
    at += 8 * this.tiles;
    this.columns = new Map(header.columns.map((name, place) =>
      [name, new Float32Array(buffer, at + 4 * this.tiles * place, this.tiles)]));
    this.orders = new Map();
    this.index();
  }

  /** The column of a head: value "percentile" or "weight", for the class `about` or, if that is
   * null, for the one called; null if the report has none. */
  column(head, value, about = null) {
    const name = `${head} attention${value === "percentile" ? " percentile" : ""}`;
    return this.columns.get(about === null ? name : `${name} for ${about}`) ?? null;
  }

  /** A grid of cells, one a tile's width, each with the first of its tiles; `next` has the others. */
  index() {
    this.wide = Math.floor(this.size[0] / this.span) + 1;
    const high = Math.floor(this.size[1] / this.span) + 1;
    this.first = new Int32Array(this.wide * high).fill(-1);
    this.next = new Int32Array(this.tiles).fill(-1);
    this.onGrid = true;
    for (let tile = 0; tile < this.tiles; tile += 1) {
      const [x, y] = [this.xy[2 * tile], this.xy[2 * tile + 1]];
      const [column, row] = [Math.round(x / this.span), Math.round(y / this.span)];
      this.onGrid &&= Math.abs(column * this.span - x) < ON_GRID_PX
        && Math.abs(row * this.span - y) < ON_GRID_PX;
      const cell = this.cell(x, y);
      this.next[tile] = this.first[cell];
      this.first[cell] = tile;
    }
  }

  cell(x, y) {
    const [row, column] = [y, x].map((place) => Math.max(0, Math.floor(place / this.span)));
    return row * this.wide + column;
  }

  /** The tiles whose corner lies in the rectangle of level-0 pixels. */
  *within(left, top, right, bottom) {
    const last = Math.floor(this.first.length / this.wide) - 1;
    const clamp = (value, high) => Math.min(high, Math.max(0, Math.floor(value / this.span)));
    for (let row = clamp(top, last); row <= clamp(bottom, last); row += 1) {
      for (let column = clamp(left, this.wide - 1); column <= clamp(right, this.wide - 1);
        column += 1) {
        for (let tile = this.first[row * this.wide + column]; tile >= 0; tile = this.next[tile]) {
          yield tile;
        }
      }
    }
  }

  /** The tile at a level-0 place, of overlapping ones that with the highest `values`; -1: none. */
  at(x, y, values) {
    let best = -1;
    for (const tile of this.within(x - this.span, y - this.span, x, y)) {
      const [left, top] = [this.xy[2 * tile], this.xy[2 * tile + 1]];
      const inside = left <= x && x < left + this.span && top <= y && y < top + this.span;
      if (inside && (best < 0 || values[tile] > values[best])) best = tile;
    }
    return best;
  }

  /** Tiles by the `values` of a column, highest first. */
  order(values) {
    if (!this.orders.has(values)) {
      const order = Uint32Array.from({ length: this.tiles }, (_, tile) => tile);
      order.sort((a, b) => values[b] - values[a]);
      this.orders.set(values, order);
    }
    return this.orders.get(values);
  }

  /**
   * A small picture of all tiles, to be drawn stretched over the slide in one call a frame: that is
   * what makes panning over 200,000 tiles cheap. `position(value)` is 0..1 on the `colours` (256 of
   * [r, g, b]). Gives {canvas, width, height}, the last two in level-0 pixels.
   */
  raster(values, position, colours) {
    let parts = this.onGrid ? 1 : 4;
    while (parts > 1 && Math.max(...this.size) / this.span * parts > MAX_RASTER_SIDE) parts /= 2;
    const step = this.span / parts;
    const [wide, high] = this.size.map((side) => Math.ceil(side / step - 0.01));
    const highest = new Float32Array(wide * high).fill(-1);
    for (let tile = 0; tile < this.tiles; tile += 1) {
      const column = Math.round(this.xy[2 * tile] / step);
      const row = Math.round(this.xy[2 * tile + 1] / step);
      const value = position(values[tile]);
      for (let y = Math.max(0, row); y < Math.min(row + parts, high); y += 1) {
        for (let x = Math.max(0, column); x < Math.min(column + parts, wide); x += 1) {
          if (value > highest[y * wide + x]) highest[y * wide + x] = value;
        }
      }
    }
    const canvas = Object.assign(document.createElement("canvas"), { width: wide, height: high });
    const context = canvas.getContext("2d");
    const image = context.createImageData(wide, high);
    for (let place = 0; place < highest.length; place += 1) {
      if (highest[place] < 0) continue;
      image.data.set(colours[Math.min(255, Math.round(255 * highest[place]))], 4 * place);
      image.data[4 * place + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    return { canvas, width: wide * step, height: high * step };
  }
}
