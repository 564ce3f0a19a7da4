// The page: opens photographs, asks the server, keeps the list of things.

import { saveCoco, saveCsv, savePicture } from "./files.js";
import { ThingList } from "./list.js";
import { combined, covers, maskOfRle, maskOfStroke, overlapOf, rleOfMask } from "./masks.js";
import { isSure, nameOf, percent, probabilityOf, regionOf, Regions } from "./regions.js";
import { fetchModels, onTokenNeeded, Photo, setToken, takeToken, Trouble } from "./server.js";
import { Stage } from "./stage.js";

const SAME = 0.85; // Two outlines that overlap by more are of one thing.

const $ = (id) => document.getElementById(id);
const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;
const page = { photo: null, classes: [], busy: 0, token: 0 };

const regions = new Regions(() => redraw());
const list = new ThingList($("things"), {
  select: (id) => regions.select(id),
  remove: (id) => {
    const gone = regions.list.find((region) => region.id === id);
    regions.remove(id);
    say(`${nameOf(gone)} taken out. Undo brings it back.`);
  },
  rename: (id, name) => {
    regions.rename(id, name);
    say(`Now called ${name}.`);
  },
  hover: (id) => stage.hover(id),
  redraw: () => redraw(),
});
const stage = new Stage($("canvas"), () => ({ regions: regions.list, selected: regions.selected, threshold: threshold(),
  tool: chosen("tool"), diameter: brushWidth() }), {
  click: (point, keys) => guarded(() => clicked(point, intent(keys))),
  hover: (point) => regionAt(point)?.id ?? null,
  box: (box, keys) => guarded(() => prompted({ points: [], labels: [], box }, intent(keys))),
  stroke: (points, diameter, keys) => guarded(() => painted(points, diameter, intent(keys))),
  polygon: (points) => guarded(() => namedInto({ regions: [{ polygons: [points.flat()] }] }, intent({}))),
  draft: () => showTools(),
});

const threshold = () => Number($("threshold").value) / 100;
const brushWidth = () => (Number($("brush-size").querySelector("input").value) * stage.unit) / stage.view.scale;

function intent(keys) {
  if (keys.altKey) return "take";
  return keys.shiftKey ? "add" : chosen("mode");
}

/** Return the smallest region at a point. */
function regionAt([x, y]) {
  const under = regions.list.filter((region) => covers(region.mask, x, y));
  return under.sort((one, other) => one.area - other.area)[0] ?? null;
}

// What the tools do.

async function clicked(point, mode) {
  const current = regions.current;
  if (mode !== "new" && current?.prompt) {
    const points = [...current.prompt.points, point], labels = [...current.prompt.labels, mode === "add" ? 1 : 0];
    const region = await named({ regions: [{ prompt: { ...current.prompt, points, labels } }] }, { ...current.prompt, points, labels });
    if (region) change(current.id, region);
    return;
  }
  await prompted({ points: [point], labels: [1] }, mode);
}

/** Outline and name what a prompt shows; add it to the selected thing, take it away from it, or make it a thing. */
async function prompted(prompt, mode) {
  await namedInto({ regions: [{ prompt }] }, mode, prompt);
}

async function painted(points, diameter, mode) {
  const stroke = maskOfStroke(points, diameter, page.photo.width, page.photo.height);
  if (!stroke) return;
  const current = regions.current;
  if (mode === "new" || !current) await namedInto({ regions: [{ rle: rleOfMask(stroke, page.photo.width, page.photo.height) }] }, "new");
  else await merged(current, stroke, mode);
}

async function namedInto(fields, mode, prompt = null) {
  const current = mode === "new" ? null : regions.current;
  const region = await named(fields, prompt);
  if (!region) return;
  if (current) {
    await merged(current, region.mask, mode);
    return;
  }
  const same = regions.list.find((other) => overlapOf(other.mask, region.mask) > SAME);
  if (same) {
    regions.select(same.id);
    say(`Selected: ${spoken(same)}.`);
    return;
  }
  regions.add([region]);
  say(`${spoken(region)}.`);
}

async function merged(current, mask, mode) {
  const both = combined(current.mask, mask, mode === "take");
  if (!both) throw new Trouble("Nothing would be left of it. Take it out in the list instead.");
  const region = await named({ regions: [{ rle: rleOfMask(both, page.photo.width, page.photo.height) }] });
  if (region) change(current.id, region);
}

function change(id, region) {
  const old = regions.list.find((one) => one.id === id);
  if (!old) return; // Taken out meanwhile.
  regions.replace(id, { ...region, renamed: old.renamed });
  say(`${spoken(regions.current)}.`);
}

/** Ask for the name of one region; null if another photograph was opened meanwhile. */
async function named(fields, prompt = null) {
  const { token } = page;
  const answer = await page.photo.remote.name(fields);
  if (token !== page.token) return null;
  return regionOf(answer.regions[0], { mask: maskOf(answer.regions[0]), prompt });
}

const maskOf = (answer) => maskOfRle(answer.segmentation, answer.bbox);

async function everything() {
  const { token } = page;
  progress(null, "Looking for things and naming them ...");
  const { things, outlines } = await page.photo.remote.everything();
  if (token !== page.token) return;
  const found = things.map((one) => regionOf(one, { mask: maskOf(one), prompt: null }));
  const fresh = found.filter((region) => !regions.list.some((other) => overlapOf(other.mask, region.mask) > SAME));
  if (fresh.length) regions.set([...regions.list, ...fresh], null);
  const sure = fresh.filter((region) => isSure(region, threshold())).length;
  say(fresh.length ? `${fresh.length} things found in ${outlines} outlines, ${sure} named.` : "Nothing new that this model knows.");
}

async function addMasks(files) {
  const { token } = page, json = files.filter((file) => /\.json$/i.test(file.name) || file.type === "application/json");
  const pictures = files.filter((file) => !json.includes(file));
  progress(null, "Naming the masks ...");
  const answers = [];
  if (pictures.length) answers.push(await page.photo.remote.name({ masks: pictures }));
  for (const file of json) answers.push(await page.photo.remote.name({ segments: file }));
  if (token !== page.token) return;
  const made = answers.flatMap((answer) => answer.regions).map((one) => regionOf(one, { mask: maskOf(one), prompt: null }));
  regions.set([...regions.list, ...made], made.length === 1 ? made[0].id : null);
  say(`${made.length} ${made.length === 1 ? "mask" : "masks"} added.`);
}

// Photographs.

async function openPhoto(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Trouble(`This browser cannot show ${file.name}. Save it as JPEG or PNG first.`);
  }
  const remote = new Photo(file);
  const { token } = Object.assign(page, { token: page.token + 1 });
  $("start").hidden = true;
  $("work").hidden = false;
  $("file-name").textContent = file.name;
  page.photo = { name: file.name, bitmap, remote, width: bitmap.width, height: bitmap.height };
  regions.clear();
  stage.show(bitmap);
  progress(null, "Reading the photograph ...");
  const kept = await remote.keep();
  if (token !== page.token) return;
  if (kept.width !== bitmap.width || kept.height !== bitmap.height)
    throw new Trouble(`The browser shows ${bitmap.width} × ${bitmap.height} pixels, the server reads ${kept.width} × ${kept.height}. Save the photograph again as PNG.`);
  say("Click on a thing.");
}

async function openExample(name) {
  const answer = await fetch(`/examples/${name}`);
  if (!answer.ok) throw new Trouble("The example is missing from this installation.");
  await openPhoto(new File([await answer.blob()], name, { type: "image/jpeg" }));
}

/** Open a photograph that was dropped, or add masks to the one that is open. */
async function dropped(files) {
  const isMask = async (file) => {
    if (/\.json$/i.test(file.name)) return true;
    if (!page.photo || !/\.(png|tiff?|bmp)$/i.test(file.name)) return false;
    const size = await createImageBitmap(file).catch(() => null);
    return size !== null && size.width === page.photo.width && size.height === page.photo.height;
  };
  const masks = [], photos = [];
  for (const file of files) ((await isMask(file)) ? masks : photos).push(file);
  if (photos.length) await openPhoto(photos[0]);
  if (masks.length && !page.photo) throw new Trouble("Open the photograph first, then add its masks.");
  if (masks.length) await addMasks(masks);
}

// What is shown.

const spoken = (region) => nameOf(region) + (probabilityOf(region) === null ? "" : `, ${percent(probabilityOf(region))}`);

function say(text) {
  $("status").textContent = text;
}

/** Show progress, 0 to 1; null if it is not known how much is left. */
function progress(share, text) {
  const bar = $("progress");
  bar.hidden = false;
  bar.classList.toggle("unknown", !share);
  bar.firstElementChild.style.width = share ? `${100 * share}%` : "";
  if (share) bar.setAttribute("aria-valuenow", String(Math.round(100 * share)));
  else bar.removeAttribute("aria-valuenow");
  if (text) say(text);
}

/** Run something that takes a while; say in plain words what went wrong. */
async function guarded(work) {
  page.busy++;
  $("messages").replaceChildren();
  progress(null);
  $("everything").disabled = true;
  try {
    await work();
  } catch (error) {
    if (!(error instanceof Trouble)) console.error(error);
    complain(error instanceof Trouble ? error.message : "Something went wrong in this page. Open the photograph again.");
    say("");
  } finally {
    page.busy--;
    if (!page.busy) {
      $("progress").hidden = true;
      $("everything").disabled = false;
    }
  }
}

function complain(text) {
  const message = document.createElement("p");
  message.textContent = text;
  const close = document.createElement("button");
  close.type = "button";
  close.className = "button quiet";
  close.textContent = "Close";
  close.addEventListener("click", () => message.remove());
  message.append(close);
  $("messages").replaceChildren(message);
}

const HINTS = {
  click: "Click on a thing. Shift adds to the selected one, Alt takes away.",
  box: "Draw a box around a thing.",
  brush: "Paint a thing. Shift adds to the selected one, Alt takes away.",
  polygon: "Click from corner to corner; click the first one again to close.",
};

function showTools() {
  const tool = chosen("tool");
  $("brush-size").hidden = tool !== "brush";
  $("close-polygon").hidden = !(stage.draft?.kind === "polygon" && stage.draft.points.length > 2);
  $("hint").textContent = HINTS[tool];
}

function redraw() {
  const count = regions.list.length;
  $("count").textContent = count || "";
  $("empty").hidden = count > 0;
  $("downloads").hidden = $("threshold-row").hidden = count === 0;
  $("undo").disabled = !regions.past.length;
  $("redo").disabled = !regions.future.length;
  $("threshold-value").textContent = percent(threshold());
  list.show(regions.list, regions.selected, threshold());
  stage.draw();
}

// Wiring.

function wire() {
  $("choose-photo").addEventListener("click", () => $("photo-file").click());
  $("open-photo").addEventListener("click", () => $("photo-file").click());
  $("photo-file").addEventListener("change", ({ target }) => {
    const [file] = target.files;
    target.value = "";
    if (file) guarded(() => openPhoto(file));
  });
  $("add-masks").addEventListener("click", () => $("mask-files").click());
  $("mask-files").addEventListener("change", ({ target }) => {
    const files = [...target.files];
    target.value = "";
    if (files.length) guarded(() => addMasks(files));
  });
  $("examples").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) guarded(() => openExample(button.dataset.example));
  });
  $("everything").addEventListener("click", () => guarded(everything));
  $("undo").addEventListener("click", () => regions.undo());
  $("redo").addEventListener("click", () => regions.redo());
  $("close-polygon").addEventListener("click", () => stage.closePolygon());
  $("zoom-in").addEventListener("click", () => stage.zoomBy(1.4));
  $("zoom-out").addEventListener("click", () => stage.zoomBy(1 / 1.4));
  $("zoom-fit").addEventListener("click", () => stage.fit(true));
  $("threshold").addEventListener("input", redraw);
  $("tools").addEventListener("change", () => { stage.setDraft(null); showTools(); });
  $("save-coco").addEventListener("click", () => saveCoco(page.photo, regions.list, page.classes));
  $("save-csv").addEventListener("click", () => saveCsv(page.photo, regions.list));
  $("save-png").addEventListener("click", () => guarded(() => savePicture(page.photo, regions.list, threshold())));
  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.target.matches("input[type=text]")) return;
    if (event.key.toLowerCase() !== "z" && event.key !== "y") return;
    event.preventDefault();
    if (event.shiftKey || event.key === "y") regions.redo();
    else regions.undo();
  });
  $("canvas").addEventListener("keydown", (event) => {
    if (event.key === "Delete" && regions.current) regions.remove(regions.current.id);
  });
  wireDrop();
}

function wireDrop() {
  let depth = 0;
  const veil = (change) => {
    depth = Math.max(depth + change, 0);
    $("drop-veil").hidden = depth === 0;
  };
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragenter", (event) => hasFiles(event) && veil(1));
  addEventListener("dragleave", (event) => hasFiles(event) && veil(-1));
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    veil(-depth);
    guarded(() => dropped([...event.dataTransfer.files]));
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) guarded(() => dropped(files));
  });
}

function askForToken() {
  const dialog = $("token-dialog");
  dialog.showModal();
  return new Promise((answered) => {
    dialog.addEventListener("close", () => {
      const token = $("token").value.trim();
      $("token").value = "";
      if (token) setToken(token);
      answered(Boolean(token));
    }, { once: true });
  });
}

async function start() {
  takeToken();
  onTokenNeeded(askForToken);
  wire();
  showTools();
  if (!["localhost", "127.0.0.1", "[::1]"].includes(location.hostname))
    $("privacy").textContent = `Drop a photograph here, or choose one. It goes to ${location.hostname} and nowhere else.`;
  await guarded(async () => {
    const { models } = await fetchModels();
    page.classes = models[0].classes;
    $("classes").replaceChildren(...page.classes.map(({ name }) => new Option(name)));
  });
  document.documentElement.dataset.ready = "true";
}

start();
