// The canvas: what is in view, pointers, fingers and keys. It tells the page where something was done on the photograph.

import { drawDraft, drawPointer, drawPrompt, drawScene } from "./drawing.js";

const MAX_ZOOM = 24;
const MARGIN = 0; // Pixels of the screen around a photograph that is shown whole.
const CLICK = 5; // Pixels of the screen that a click may slip.

export class Stage {
  /**
   * @param canvas   the canvas, in a box that gives it room
   * @param look     returns {regions, selected, threshold, tool, diameter}
   * @param events   {click, hover, box, stroke, polygon, draft}: functions that get points of the photograph, and keys
   */
  constructor(canvas, look, events) {
    Object.assign(this, { canvas, look, events, photo: null, draft: null, pointer: null, hovered: null });
    this.context = canvas.getContext("2d");
    this.view = { scale: 1, x: 0, y: 0 };
    this.zoom = 1;
    this.fingers = new Map();
    this.asked = false;
    new ResizeObserver(() => this.fit(false)).observe(canvas.parentElement);
    for (const kind of ["pointerdown", "pointermove", "pointerup", "pointercancel", "pointerleave"])
      canvas.addEventListener(kind, (event) => this[`on_${kind}`](event));
    canvas.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.onKey(event));
    canvas.addEventListener("blur", () => { this.pointer = null; this.draw(); });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  show(photo) {
    this.canvas.parentElement.style.setProperty("--shape", photo.width / photo.height);
    Object.assign(this, { photo, draft: null, pointer: null, hovered: null });
    this.fit(true);
  }

  get unit() {
    return window.devicePixelRatio || 1;
  }

  /** Size the canvas to its box; `whole` shows all of the photograph again. */
  fit(whole) {
    if (!this.photo) return;
    const room = this.canvas.parentElement.getBoundingClientRect(), unit = this.unit;
    if (!room.width || !room.height) return;
    this.canvas.width = Math.round(room.width * unit);
    this.canvas.height = Math.round(room.height * unit);
    const side = (canvas, photo) => (canvas - 2 * MARGIN * unit) / photo;
    this.least = Math.min(side(this.canvas.width, this.photo.width), side(this.canvas.height, this.photo.height));
    if (whole) this.zoom = 1;
    this.view.scale = this.least * this.zoom;
    if (this.zoom === 1) this.view.x = this.view.y = 0;
    this.keepInside();
    this.draw();
  }

  /** Zoom around a point of the canvas. */
  zoomBy(factor, cx = this.canvas.width / 2, cy = this.canvas.height / 2) {
    const zoom = Math.min(Math.max(this.zoom * factor, 1), MAX_ZOOM), ratio = (zoom * this.least) / this.view.scale;
    this.view.x = cx - (cx - this.view.x) * ratio;
    this.view.y = cy - (cy - this.view.y) * ratio;
    this.zoom = zoom;
    this.view.scale = this.least * zoom;
    this.keepInside();
    this.draw();
  }

  panBy(dx, dy) {
    this.view.x += dx;
    this.view.y += dy;
    this.keepInside();
    this.draw();
  }

  keepInside() {
    const keep = (start, size, room) => (size <= room ? (room - size) / 2 : Math.min(Math.max(start, room - size), 0));
    this.view.x = keep(this.view.x, this.photo.width * this.view.scale, this.canvas.width);
    this.view.y = keep(this.view.y, this.photo.height * this.view.scale, this.canvas.height);
  }

  /** Draw soon; several calls are one. */
  draw() {
    if (this.asked || !this.photo) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      if (this.photo) this.drawNow();
    });
  }

  drawNow() {
    const { regions, selected, threshold } = this.look(), unit = this.unit;
    drawScene(this.context, this.photo, regions, this.view, { selected, hovered: this.hovered, threshold, unit });
    const current = regions.find((region) => region.id === selected);
    drawPrompt(this.context, current?.prompt, this.view, unit);
    drawDraft(this.context, this.draft, this.view, unit);
    if (this.pointer) drawPointer(this.context, this.pointer, this.view, unit);
  }

  /** Return the point of the photograph under a pointer, kept inside it. */
  pointOf(event) {
    const rect = this.canvas.getBoundingClientRect();
    return this.kept([
      ((event.clientX - rect.left) * this.unit - this.view.x) / this.view.scale,
      ((event.clientY - rect.top) * this.unit - this.view.y) / this.view.scale,
    ]);
  }

  kept([x, y]) {
    const inside = (value, side) => Math.min(Math.max(value, 0), side - 0.01);
    return [inside(x, this.photo.width), inside(y, this.photo.height)];
  }

  isOnPhoto(event) {
    const rect = this.canvas.getBoundingClientRect();
    const x = ((event.clientX - rect.left) * this.unit - this.view.x) / this.view.scale;
    const y = ((event.clientY - rect.top) * this.unit - this.view.y) / this.view.scale;
    return x >= 0 && y >= 0 && x < this.photo.width && y < this.photo.height;
  }

  on_pointerdown(event) {
    if (!this.photo) return;
    this.canvas.focus({ preventScroll: true });
    this.pointer = null;
    this.fingers.set(event.pointerId, [event.clientX, event.clientY]);
    this.canvas.setPointerCapture(event.pointerId);
    if (this.fingers.size > 1) { // Two fingers move the photograph.
      this.down = null;
      if (this.draft?.kind !== "polygon") this.setDraft(null);
      return;
    }
    if (event.button === 1 || event.button === 2) {
      this.down = { pan: true };
      return;
    }
    if (!this.isOnPhoto(event)) return;
    this.down = { at: [event.clientX, event.clientY], point: this.pointOf(event) };
    const { tool, diameter } = this.look();
    if (tool === "brush") this.setDraft({ kind: "brush", points: [this.down.point], diameter });
    if (tool === "box") this.setDraft({ kind: "box", points: [this.down.point] });
  }

  on_pointermove(event) {
    if (!this.photo) return;
    const before = this.fingers.get(event.pointerId);
    if (before && (this.fingers.size > 1 || this.down?.pan)) {
      this.onFinger(event, before);
      return;
    }
    if (this.down && (this.draft?.kind === "brush" || this.draft?.kind === "box")) {
      const point = this.pointOf(event), points = this.draft.points;
      this.setDraft({ ...this.draft, points: this.draft.kind === "box" ? [points[0], point] : [...points, point] });
    } else if (!this.down && event.pointerType === "mouse") {
      this.hover(this.isOnPhoto(event) ? this.events.hover(this.pointOf(event)) : null);
    }
  }

  onFinger(event, [x, y]) {
    const others = [...this.fingers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    const to = [event.clientX, event.clientY];
    if (others.length) {
      const apart = (place) => Math.hypot(place[0] - others[0][0], place[1] - others[0][1]);
      const rect = this.canvas.getBoundingClientRect(), middle = [(to[0] + others[0][0]) / 2, (to[1] + others[0][1]) / 2];
      this.zoomBy(apart(to) / Math.max(apart([x, y]), 1), (middle[0] - rect.left) * this.unit, (middle[1] - rect.top) * this.unit);
    }
    const share = others.length ? 0.5 : 1;
    this.panBy((to[0] - x) * this.unit * share, (to[1] - y) * this.unit * share);
    this.fingers.set(event.pointerId, to);
  }

  on_pointerup(event) {
    const several = this.fingers.size > 1;
    this.fingers.delete(event.pointerId);
    const down = this.down;
    this.down = null;
    if (!down?.at || several) return;
    const slip = Math.hypot(event.clientX - down.at[0], event.clientY - down.at[1]);
    this.finish(this.pointOf(event), event, slip <= CLICK);
  }

  on_pointercancel(event) {
    this.fingers.delete(event.pointerId);
    this.down = null;
    if (this.draft?.kind !== "polygon") this.setDraft(null);
  }

  on_pointerleave() {
    this.hover(null);
  }

  hover(id) {
    if (id === this.hovered) return;
    this.hovered = id;
    this.draw();
  }

  /** Do what the tool does where a pointer was lifted, or a key pressed. */
  finish(point, keys, isClick) {
    const { tool } = this.look(), draft = this.draft;
    if (tool === "click") {
      if (isClick) this.events.click(point, keys);
    } else if (tool === "polygon") {
      this.addCorner(point);
    } else if (tool === "brush" && draft) {
      this.setDraft(null);
      this.events.stroke(draft.points, draft.diameter, keys);
    } else if (tool === "box" && draft) {
      const [x0, y0] = draft.points[0], [x1, y1] = point;
      if (isClick && Math.hypot(x1 - x0, y1 - y0) * this.view.scale < 2 * CLICK * this.unit) return; // The other corner comes next.
      this.setDraft(null);
      this.events.box([Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0)], keys);
    }
  }

  addCorner(point) {
    const points = this.draft?.points ?? [];
    const near = (other) => Math.hypot(point[0] - other[0], point[1] - other[1]) * this.view.scale < 9 * this.unit;
    if (points.length > 2 && near(points[0])) this.closePolygon();
    else if (!points.length || !near(points.at(-1))) this.setDraft({ kind: "polygon", points: [...points, point] });
  }

  closePolygon() {
    const points = this.draft?.points ?? [];
    if (points.length < 3) return;
    this.setDraft(null);
    this.events.polygon(points);
  }

  setDraft(draft) {
    this.draft = draft;
    this.events.draft(draft);
    this.draw();
  }

  onWheel(event) {
    if (!this.photo || (!event.ctrlKey && !event.metaKey && this.zoom === 1)) return; // The page scrolls.
    event.preventDefault();
    const rect = this.canvas.getBoundingClientRect();
    if (event.ctrlKey || event.metaKey)
      this.zoomBy(Math.exp(-event.deltaY / 300), (event.clientX - rect.left) * this.unit, (event.clientY - rect.top) * this.unit);
    else this.panBy(-event.deltaX * this.unit, -event.deltaY * this.unit);
  }

  onKey(event) {
    if (!this.photo || event.ctrlKey || event.metaKey) return;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (steps) {
      const far = (event.shiftKey ? 40 : 10) / (this.view.scale / this.unit);
      const from = this.pointer ?? [this.photo.width / 2, this.photo.height / 2];
      this.pointer = this.pointer ? this.kept([from[0] + steps[0] * far, from[1] + steps[1] * far]) : from;
      if (this.draft?.kind === "box") this.setDraft({ ...this.draft, points: [this.draft.points[0], this.pointer] });
      if (this.draft?.kind === "brush") this.setDraft({ ...this.draft, points: [...this.draft.points, this.pointer] });
      this.hover(this.events.hover(this.pointer));
      this.draw();
    } else if (event.key === "Enter" || event.key === " ") {
      this.pointer ??= [this.photo.width / 2, this.photo.height / 2];
      this.press(event);
    } else if (event.key === "Escape" && this.draft) this.setDraft(null);
    else if (event.key === "Backspace" && this.draft?.kind === "polygon")
      this.setDraft({ ...this.draft, points: this.draft.points.slice(0, -1) });
    else if (event.key === "+" || event.key === "=") this.zoomBy(1.4);
    else if (event.key === "-") this.zoomBy(1 / 1.4);
    else if (event.key === "0") this.fit(true);
    else return;
    event.preventDefault();
  }

  /** Enter: a click; the first and the second corner of a box; the start and the end of a stroke; a corner. */
  press(event) {
    const { tool, diameter } = this.look();
    if ((tool === "box" || tool === "brush") && !this.draft) {
      this.setDraft({ kind: tool, points: [this.pointer], diameter });
      this.draw();
    } else if (tool === "polygon" && event.shiftKey) this.closePolygon();
    else this.finish(this.pointer, event, true);
  }
}
