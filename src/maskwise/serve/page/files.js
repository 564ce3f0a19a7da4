// Files to take home: a COCO file, a picture, a table.

import { drawScene } from "./drawing.js";
import { nameOf, probabilityOf } from "./regions.js";

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const stem = (name) => name.replace(/\.[^.]*$/, "") || "photo";

/** Return a COCO file of the regions; a name that the model does not know gets an id of its own. */
export function cocoOf(photo, regions, classes) {
  const categories = classes.map(({ id, name }) => ({ id, name }));
  const ids = new Map(categories.map(({ id, name }) => [name, id]));
  let next = 1 + Math.max(0, ...categories.map(({ id }) => Number(id) || 0));
  const annotations = regions.map((region, place) => {
    const name = nameOf(region);
    if (!ids.has(name)) {
      ids.set(name, next);
      categories.push({ id: next++, name });
    }
    const annotation = { id: place + 1, image_id: 1, category_id: ids.get(name), segmentation: region.rle, bbox: region.box,
      area: region.area, iscrowd: 0, top_category_ids: region.names.map((one) => one.category_id),
      top_scores: region.names.map((one) => one.probability) };
    if (region.renamed === null) annotation.score = probabilityOf(region);
    if (region.known !== null) annotation.known = region.known;
    return annotation;
  });
  const image = { id: 1, file_name: photo.name, width: photo.width, height: photo.height };
  return { images: [image], annotations, categories };
}

export function saveCoco(photo, regions, classes) {
  const text = JSON.stringify(cocoOf(photo, regions, classes));
  save(new Blob([text], { type: "application/json" }), `${stem(photo.name)}-named.json`);
}

const cell = (value) => {
  const text = String(value);
  const harmless = /^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text; // No formula of a spreadsheet.
  return /[",\n\r]/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless;
};

/** Return a table with a line for each region. */
export function csvOf(regions) {
  const head = ["number", "name", "probability", "renamed", "runners_up", "x", "y", "width", "height", "area"];
  const lines = regions.map((region, place) => {
    const others = region.names.filter((one) => one.name !== nameOf(region));
    const runners = others.map((one) => `${one.name} ${one.probability.toFixed(4)}`).join("; ");
    const probability = probabilityOf(region)?.toFixed(4) ?? "";
    return [place + 1, nameOf(region), probability, region.renamed === null ? "no" : "yes", runners, ...region.box, region.area];
  });
  return [head, ...lines].map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
}

export function saveCsv(photo, regions) {
  save(new Blob(["\ufeff", csvOf(regions)], { type: "text/csv;charset=utf-8" }), `${stem(photo.name)}-named.csv`);
}

const MAX_SIDE = 4096; // Larger canvases fail on phones.
const MIN_SIDE = 1200; // Labels on smaller pictures would be larger than the things.

export async function savePicture(photo, regions, threshold) {
  const side = Math.max(photo.width, photo.height);
  const scale = Math.min(Math.max(MIN_SIDE / side, 1), MAX_SIDE / side);
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(photo.width * scale);
  canvas.height = Math.round(photo.height * scale);
  const look = { selected: null, hovered: null, threshold, unit: Math.max(canvas.width, canvas.height) / 1000 };
  drawScene(canvas.getContext("2d"), photo.bitmap, regions, { scale, x: 0, y: 0 }, look);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  save(blob, `${stem(photo.name)}-named.png`);
}
