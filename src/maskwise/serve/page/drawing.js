// Draw the photograph with its regions and their names: on the screen, and in the picture that is saved.

import { classColour, css, inkOn } from "./colours.js";
import { anchorOf, outlineOf } from "./masks.js";
import { isSure, nameOf, percent, probabilityOf } from "./regions.js";

const GREY = [128, 128, 128];

/** The larger ones first: smaller regions lie over larger ones. */
export const bySize = (regions) => [...regions].sort((one, other) => other.area - one.area);

/**
 * Draw a photograph and its regions.
 * @param context  of a canvas
 * @param photo    an image
 * @param regions  the regions
 * @param view     {scale, x, y}: pixels of the canvas for a pixel of the photograph, and where its corner lies
 * @param look     {selected, hovered, threshold, unit}; `unit` is the size of a pixel of the screen in pixels of the canvas
 */
export function drawScene(context, photo, regions, view, look) {
  const { scale, x, y } = view;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
  context.setTransform(scale, 0, 0, scale, x, y);
  context.imageSmoothingQuality = "high";
  context.imageSmoothingEnabled = scale < 4;
  context.drawImage(photo, 0, 0);
  for (const region of bySize(regions)) drawRegion(context, region, scale, look);
  context.setTransform(1, 0, 0, 1, 0, 0);
  drawLabels(context, regions, view, look);
}

function drawRegion(context, region, scale, look) {
  const sure = isSure(region, look.threshold), active = region.id === look.selected;
  const colour = sure ? classColour(nameOf(region)) : GREY, path = outlineOf(region.mask);
  const strong = active || region.id === look.hovered;
  context.fillStyle = css(colour, sure ? (strong ? 0.44 : 0.26) : strong ? 0.3 : 0.12);
  context.fill(path, "evenodd");
  context.lineJoin = "round";
  if (active) {
    context.lineWidth = (5 * look.unit) / scale;
    context.strokeStyle = "#fff";
    context.stroke(path);
  }
  context.lineWidth = ((sure || strong ? 2.25 : 1.25) * look.unit) / scale;
  context.strokeStyle = css(colour);
  context.stroke(path);
}

function drawLabels(context, regions, view, look) {
  const size = 13 * look.unit, height = 22 * look.unit, taken = [];
  context.textBaseline = "middle";
  context.textAlign = "center";
  const chosen = (region) => region.id === look.selected;
  const ordered = [...regions].sort((one, other) => chosen(other) - chosen(one) || other.area - one.area);
  for (const region of ordered) {
    if (!isSure(region, look.threshold)) continue;
    const number = String(regions.indexOf(region) + 1), probability = probabilityOf(region);
    const text = nameOf(region) + (probability === null ? "" : ` ${percent(probability)}`);
    context.font = `600 ${size}px ui-sans-serif, system-ui, sans-serif`;
    const [ax, ay, room] = anchorOf(region.mask);
    const cx = ax * view.scale + view.x, cy = ay * view.scale + view.y;
    const width = context.measureText(text).width + 16 * look.unit;
    const fits = chosen(region) || width < 1.5 * room * view.scale;
    const place = fits && placed(context.canvas, cx, cy, width, height, taken);
    const dot = place ? null : placed(context.canvas, cx, cy, height, height, taken);
    const [left, top, right, bottom] = place || dot || box(cx, cy, height, height);
    taken.push([left, top, right, bottom]);
    drawPlate(context, left, top, right - left, bottom - top, place ? text : number, classColour(nameOf(region)), look);
  }
}

const box = (cx, cy, width, height) => [cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2];

/** Return where a label has room, near where it belongs; null if nowhere. */
function placed(canvas, cx, cy, width, height, taken) {
  for (const [dx, dy] of [[0, 0], [0, -1.2], [0, 1.2], [0.6, 0], [-0.6, 0], [0, -2.4], [0, 2.4]]) {
    const px = Math.min(Math.max(cx + dx * width, width / 2 + 3), canvas.width - width / 2 - 3);
    const py = Math.min(Math.max(cy + dy * height, height / 2 + 3), canvas.height - height / 2 - 3);
    const [left, top, right, bottom] = box(px, py, width, height);
    if (taken.every((other) => right < other[0] || left > other[2] || bottom < other[1] || top > other[3]))
      return [left, top, right, bottom];
  }
  return null;
}

function drawPlate(context, left, top, width, height, text, colour, look) {
  context.beginPath();
  context.roundRect(left, top, width, height, height / 2);
  context.fillStyle = css(colour);
  context.fill();
  context.lineWidth = 1.5 * look.unit;
  context.strokeStyle = inkOn(colour) === "#000" ? "rgb(0 0 0 / .45)" : "rgb(255 255 255 / .85)";
  context.stroke();
  context.fillStyle = inkOn(colour);
  context.fillText(text, left + width / 2, top + height / 2 + 0.5 * look.unit);
}

/** Draw the points that the segmenter was shown: a plus is part of the thing, a minus is not. */
export function drawPrompt(context, prompt, view, unit) {
  context.setTransform(1, 0, 0, 1, 0, 0);
  (prompt?.points ?? []).forEach(([x, y], number) => {
    const cx = x * view.scale + view.x, cy = y * view.scale + view.y, part = prompt.labels?.[number] !== 0;
    context.beginPath();
    context.arc(cx, cy, 6 * unit, 0, 2 * Math.PI);
    context.fillStyle = part ? "#fff" : "#222";
    context.fill();
    context.lineWidth = 1.5 * unit;
    context.strokeStyle = part ? "#222" : "#fff";
    context.stroke();
    context.beginPath();
    context.moveTo(cx - 3 * unit, cy);
    context.lineTo(cx + 3 * unit, cy);
    if (part) {
      context.moveTo(cx, cy - 3 * unit);
      context.lineTo(cx, cy + 3 * unit);
    }
    context.stroke();
  });
}

/** Draw what is being drawn: a box, a polygon or a stroke; `draft` is {kind, points, diameter}. */
export function drawDraft(context, draft, view, unit) {
  if (!draft?.points.length) return;
  context.setTransform(view.scale, 0, 0, view.scale, view.x, view.y);
  const path = new Path2D();
  const [first, ...rest] = draft.points;
  if (draft.kind === "box") {
    const last = rest.at(-1) ?? first;
    path.rect(first[0], first[1], last[0] - first[0], last[1] - first[1]);
  } else {
    path.moveTo(...first);
    rest.forEach((point) => path.lineTo(...point));
    if (!rest.length) path.lineTo(first[0], first[1] + 0.01);
  }
  context.lineJoin = context.lineCap = "round";
  const stroke = (style, width) => {
    context.strokeStyle = style;
    context.lineWidth = width;
    context.stroke(path);
  };
  if (draft.kind === "brush") {
    stroke("rgb(255 255 255 / .55)", draft.diameter);
    return;
  }
  stroke("rgb(0 0 0 / .6)", (4 * unit) / view.scale);
  stroke("#fff", (2 * unit) / view.scale);
  if (draft.kind === "polygon") {
    for (const [x, y] of draft.points) {
      context.beginPath();
      context.arc(x, y, (4.5 * unit) / view.scale, 0, 2 * Math.PI);
      context.fillStyle = "#fff";
      context.fill();
      context.lineWidth = (1.5 * unit) / view.scale;
      context.strokeStyle = "#222";
      context.stroke();
    }
  }
}

/** Draw the keyboard's pointer. */
export function drawPointer(context, [x, y], view, unit) {
  const cx = x * view.scale + view.x, cy = y * view.scale + view.y;
  context.setTransform(1, 0, 0, 1, 0, 0);
  for (const [style, width] of [["#000", 4], ["#fff", 2]]) {
    context.strokeStyle = style;
    context.lineWidth = width * unit;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(cx + 4 * dx * unit, cy + 4 * dy * unit);
      context.lineTo(cx + 13 * dx * unit, cy + 13 * dy * unit);
    }
    context.stroke();
  }
}
