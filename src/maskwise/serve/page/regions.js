// The things in the photograph, and how to undo. A region never changes: a changed one is a new object, so that a step
// back is the list as it was.

import { insideOf, overlapOf } from "./masks.js";

let nextId = 1;

/**
 * Make a region of an answer of the server.
 * @param named  {region, names, segmentation, bbox, area, known, given, predicted_iou} as /v1/predict gives it
 * @param more   {mask, prompt, source}; `prompt` is what the segmenter was shown
 */
export function regionOf(named, more) {
  const top = named.names[0];
  const given = named.given && named.given !== top.name ? named.given : null;
  return { id: nextId++, names: named.names, known: named.known ?? null, rle: named.segmentation, box: named.bbox,
    area: named.area, renamed: given, ...more };
}

export const nameOf = (region) => region.renamed ?? region.names[0].name;
export const probabilityOf = (region) => (region.renamed === null ? region.names[0].probability : null);

/** Return whether a region's name is sure enough to be shown. */
export function isSure(region, threshold) {
  if (region.renamed !== null) return true;
  return region.names[0].probability >= threshold && (region.known === null || region.known >= 0.5);
}

const MERGED = 0.8; // A thing that lies in another of its name by more is a part of it.
const RIVAL = 0.5; // Of two things that overlap by more the surer one stays.

/**
 * Leave out things that are said better by others: parts of a thing of the same name, and less sure rivals.
 * @param regions  found things
 * @param present  things that stay whatever is found
 */
export function distinct(regions, present) {
  const kept = [...present];
  const surest = [...regions].sort((one, other) => strength(other) - strength(one));
  for (const region of surest) {
    const beaten = kept.some((other) =>
      overlapOf(region.mask, other.mask) > RIVAL ||
      (nameOf(region) === nameOf(other) && Math.max(insideOf(region.mask, other.mask), insideOf(other.mask, region.mask)) > MERGED));
    if (!beaten) kept.push(region);
  }
  return regions.filter((region) => kept.includes(region));
}

/** Of things about as sure the larger one is the whole. */
const strength = (region) => region.names[0].probability * region.area ** 0.15;

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
    const renamed = name && name !== region.names[0].name ? name : null;
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
