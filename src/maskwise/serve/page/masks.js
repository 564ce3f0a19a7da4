// Masks: COCO's run lengths to bits and back, unions, outlines. A mask is {x, y, w, h, bits}: a box of the photograph, in
// pixels, and for each of its pixels, row by row, 1 if it belongs to the thing.

/** Decode COCO's compressed run lengths (`counts` is text), or plain ones (a list). */
function runLengths(counts) {
  if (Array.isArray(counts)) return counts;
  const runs = [];
  let place = 0;
  while (place < counts.length) {
    let value = 0, shift = 0, more = true;
    while (more) {
      const code = counts.charCodeAt(place++) - 48;
      value += (code & 31) * 2 ** shift;
      more = (code & 32) !== 0;
      shift += 5;
      if (!more && code & 16) value -= 2 ** shift;
    }
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

/** Return the mask of {size: [height, width], counts} inside a box [x, y, w, h]. */
export function maskOfRle(rle, box) {
  const height = rle.size[0];
  const [x, y, w, h] = box;
  const bits = new Uint8Array(w * h);
  let start = 0;
  runLengths(rle.counts).forEach((length, number) => {
    if (number % 2) {
      for (let place = start; place < start + length; ) { // Column by column.
        const column = Math.floor(place / height), top = place - column * height;
        const end = Math.min(start + length, (column + 1) * height);
        for (let row = top; row < top + end - place; row++) bits[(row - y) * w + column - x] = 1;
        place = end;
      }
    }
    start += length;
  });
  return { x, y, w, h, bits };
}

/** Return a mask as plain run lengths of a photograph. */
export function rleOfMask(mask, width, height) {
  const counts = [];
  let run = 0, value = 0;
  const add = (length, next) => {
    if (next === value) run += length;
    else { counts.push(run); run = length; value = next; }
  };
  add(mask.x * height, 0);
  for (let column = 0; column < mask.w; column++) {
    add(mask.y, 0);
    for (let row = 0; row < mask.h; row++) add(1, mask.bits[row * mask.w + column]);
    add(height - mask.y - mask.h, 0);
  }
  add((width - mask.x - mask.w) * height, 0);
  counts.push(run);
  return { size: [height, width], counts };
}

/** Return whether a mask has a pixel. */
export function covers(mask, x, y) {
  const column = Math.floor(x) - mask.x, row = Math.floor(y) - mask.y;
  return column >= 0 && row >= 0 && column < mask.w && row < mask.h && mask.bits[row * mask.w + column] === 1;
}

export function areaOf(mask) {
  let area = 0;
  for (const bit of mask.bits) area += bit;
  return area;
}

/** Return the intersection of two masks divided by their union, 0 to 1. */
export function overlapOf(one, other) {
  const shared = sharedArea(one, other);
  return shared ? shared / (areaOf(one) + areaOf(other) - shared) : 0;
}

function sharedArea(one, other) {
  const x0 = Math.max(one.x, other.x), x1 = Math.min(one.x + one.w, other.x + other.w);
  const y0 = Math.max(one.y, other.y), y1 = Math.min(one.y + one.h, other.y + other.h);
  if (x0 >= x1 || y0 >= y1) return 0;
  let shared = 0;
  for (let y = y0; y < y1; y++) {
    const a = (y - one.y) * one.w - one.x, b = (y - other.y) * other.w - other.x;
    for (let x = x0; x < x1; x++) shared += one.bits[a + x] & other.bits[b + x];
  }
  return shared;
}

/** Return one mask with another added or taken away; null if nothing is left. */
export function combined(one, other, take) {
  const x = take ? one.x : Math.min(one.x, other.x), y = take ? one.y : Math.min(one.y, other.y);
  const right = take ? one.x + one.w : Math.max(one.x + one.w, other.x + other.w);
  const bottom = take ? one.y + one.h : Math.max(one.y + one.h, other.y + other.h);
  const mask = { x, y, w: right - x, h: bottom - y, bits: new Uint8Array((right - x) * (bottom - y)) };
  const draw = (part, value) => {
    for (let row = Math.max(part.y, y); row < Math.min(part.y + part.h, bottom); row++)
      for (let column = Math.max(part.x, x); column < Math.min(part.x + part.w, right); column++)
        if (part.bits[(row - part.y) * part.w + column - part.x]) mask.bits[(row - y) * mask.w + column - x] = value;
  };
  draw(one, 1);
  draw(other, take ? 0 : 1);
  return areaOf(mask) ? mask : null;
}

/** Return the mask of a brush's stroke: discs of a diameter along points, pixels; null if it lies outside. */
export function maskOfStroke(points, diameter, width, height) {
  const radius = Math.max(diameter / 2, 0.75);
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const x = Math.max(Math.floor(Math.min(...xs) - radius), 0), y = Math.max(Math.floor(Math.min(...ys) - radius), 0);
  const right = Math.min(Math.ceil(Math.max(...xs) + radius), width);
  const bottom = Math.min(Math.ceil(Math.max(...ys) + radius), height);
  if (right <= x || bottom <= y) return null;
  const mask = { x, y, w: right - x, h: bottom - y, bits: new Uint8Array((right - x) * (bottom - y)) };
  const disc = (cx, cy) => {
    for (let row = Math.max(Math.floor(cy - radius), y); row < Math.min(cy + radius, bottom); row++) {
      const half = Math.sqrt(Math.max(radius * radius - (row + 0.5 - cy) ** 2, 0));
      const from = Math.max(Math.ceil(cx - half - 0.5), x), to = Math.min(Math.floor(cx + half - 0.5), right - 1);
      if (to >= from) mask.bits.fill(1, (row - y) * mask.w + from - x, (row - y) * mask.w + to - x + 1);
    }
  };
  points.forEach(([px, py], number) => {
    const [qx, qy] = points[Math.max(number - 1, 0)];
    const steps = Math.max(Math.ceil(Math.hypot(px - qx, py - qy) / Math.max(radius / 2, 0.5)), 1);
    for (let step = 1; step <= steps; step++) disc(qx + ((px - qx) * step) / steps, qy + ((py - qy) * step) / steps);
  });
  return areaOf(mask) ? mask : null;
}

const SPECK = 0.06; // Shorter pieces of an outline, as a share of the thing's size, are not drawn.

const paths = new WeakMap();

/** Return the outline of a mask as a path in the photograph's pixels, holes included (fill it with `evenodd`). */
export function outlineOf(mask) {
  if (!paths.has(mask)) paths.set(mask, new Path2D(tracedOutline(mask)));
  return paths.get(mask);
}

/** Follow the cracks between pixels; the path joins the middles of cracks, so that slanting edges look straight. */
export function tracedOutline({ x, y, w, h, bits }) {
  const at = (column, row) => column >= 0 && row >= 0 && column < w && row < h && bits[row * w + column] === 1;
  const seen = new Uint8Array(w * h); // Cracks above pixels that a path has passed to the right.
  const parts = [], least = Math.sqrt(w * h) * SPECK;
  for (let row = 0; row < h; row++) {
    for (let column = 0; column < w; column++) {
      if (!at(column, row) || at(column, row - 1) || seen[row * w + column]) continue;
      let px = column, py = row, dx = 1, dy = 0;
      const points = [];
      do { // The thing lies on the right hand.
        if (dx === 1) seen[py * w + px] = 1;
        points.push([x + px + dx / 2, y + py + dy / 2]);
        px += dx;
        py += dy;
        const left = at(px + (dx + dy - 1) / 2, py + (dy - dx - 1) / 2);
        const right = at(px + (dx - dy - 1) / 2, py + (dy + dx - 1) / 2);
        if (left) [dx, dy] = [dy, -dx];
        else if (!right) [dx, dy] = [-dy, dx];
      } while (px !== column || py !== row || dx !== 1);
      if (points.length >= least) parts.push("M" + withoutStraight(points).map((p) => p.join(" ")).join("L") + "Z");
    }
  }
  return parts.join("");
}

function withoutStraight(points) {
  const kept = points.filter((point, number) => {
    const before = points[(number || points.length) - 1], after = points[(number + 1) % points.length];
    return (point[0] - before[0]) * (after[1] - point[1]) !== (point[1] - before[1]) * (after[0] - point[0]);
  });
  return kept.length > 2 ? kept : points;
}

const anchors = new WeakMap();

/** Return a point well inside a mask, where its label may stand, and the width of the mask there: [x, y, width]. */
export function anchorOf(mask) {
  if (!anchors.has(mask)) anchors.set(mask, findAnchor(mask));
  return anchors.get(mask);
}

function findAnchor({ x, y, w, h, bits }) {
  let best = [x + w / 2, y + h / 2, 0], most = -1;
  for (let step = 1; step <= 21; step++) {
    const row = Math.min(Math.floor((h * step) / 22), h - 1);
    for (let column = 0, start = -1; column <= w; column++) {
      const inside = column < w && bits[row * w + column];
      if (inside && start < 0) start = column;
      if (!inside && start >= 0) {
        const length = column - start, value = length * (1 - 0.6 * Math.abs(step - 11) / 11);
        if (value > most) [most, best] = [value, [x + start + length / 2, y + row + 0.5, length]];
        start = -1;
      }
    }
  }
  return best;
}
