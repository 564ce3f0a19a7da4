// The things in the photograph, and how to undo. A region never changes: a changed one is a new object, so that a step
// back is the list as it was.

let nextId = 1;

/**
 * Make a region of an answer of the server.
 * @param named  {region, names, segmentation, bbox, area, known, given, predicted_iou} as /v1/predict gives it
 * @param more   {mask, prompt, source}; `prompt` is what the segmenter was shown
 */
export function regionOf(named, more) {
  const region = { id: nextId++, names: named.names, isNone: named.is_none, known: named.known ?? null, rle: named.segmentation,
    box: named.bbox, area: named.area, renamed: null, ...more };
  return { ...region, renamed: named.given && named.given !== nameOf(region) ? named.given : null };
}

export const NONE = "none of these";
export const nameOf = (region) => region.renamed ?? (region.isNone ? NONE : region.names[0].name);

/** Return how probable the name is, 0 to 1; null for a name that a person gave. */
export function probabilityOf(region) {
  if (region.renamed !== null) return null;
  return region.isNone ? 1 - (region.known ?? region.names[0].probability) : region.names[0].probability;
}

/** Return whether a region's name is sure enough to be shown. */
export function isSure(region, threshold) {
  if (region.renamed !== null) return true;
  return !region.isNone && region.names[0].probability >= threshold;
}

export const percent = (share) => `${Math.round(100 * share)} %`;

/** The list of regions with its past and future. */
export class Regions {
  constructor(changed) {
    Object.assign(this, { changed, list: [], selected: null, past: [], future: [] });
  }

  clear() {
    Object.assign(this, { list: [], selected: null, past: [], future: [] });
    this.changed();
  }

  get current() {
    return this.list.find((region) => region.id === this.selected) ?? null;
  }

  select(id) {
    this.selected = id;
    this.changed();
  }

  /** Take a new list; the one before can be had back. */
  set(list, selected = this.selected) {
    this.past.push([this.list, this.selected]);
    this.future = [];
    this.list = list;
    this.selected = list.some((region) => region.id === selected) ? selected : null;
    this.changed();
  }

  add(regions) {
    this.set([...this.list, ...regions], regions.length === 1 ? regions[0].id : this.selected);
  }

  replace(id, region) {
    this.set(this.list.map((old) => (old.id === id ? { ...region, id } : old)), id);
  }

  remove(id) {
    const place = this.list.findIndex((region) => region.id === id);
    const list = this.list.filter((region) => region.id !== id);
    this.set(list, list[Math.min(place, list.length - 1)]?.id ?? null);
  }

  rename(id, name) {
    const region = this.list.find((one) => one.id === id);
    const renamed = name && name !== nameOf({ ...region, renamed: null }) ? name : null;
    if (renamed !== region.renamed) this.replace(id, { ...region, renamed });
  }

  undo() {
    this.#go(this.past, this.future);
  }

  redo() {
    this.#go(this.future, this.past);
  }

  #go(from, to) {
    if (!from.length) return;
    to.push([this.list, this.selected]);
    [this.list, this.selected] = from.pop();
    this.changed();
  }
}
