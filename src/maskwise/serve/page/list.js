// The list of things beside the photograph: names with bars, runners-up, rename, take out.

import { classColour, css, inkOn } from "./colours.js";
import { isSure, nameOf, NONE, percent, probabilityOf } from "./regions.js";

const WORTH = 0.005; // Less probable names are not shown.

const icon = (name) => `<svg aria-hidden="true"><use href="#i-${name}"/></svg>`;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function iconButton(name, label, act) {
  const button = element("button", "button icon quiet");
  button.type = "button";
  button.innerHTML = icon(name);
  button.setAttribute("aria-label", label);
  button.title = label;
  button.addEventListener("click", act);
  return button;
}

/** Shows regions as a list; `acts` is {select, rename, remove, hover}. */
export class ThingList {
  constructor(list, acts) {
    Object.assign(this, { list, acts, editing: null });
  }

  show(regions, selected, threshold) {
    const focus = this.focused();
    this.list.replaceChildren(...regions.map((region, place) => this.item(region, place, selected, threshold)));
    this.restore(focus, regions);
  }

  /** What has the focus: it must not be lost when the list is drawn again. */
  focused() {
    const item = document.activeElement?.closest?.("#things > li");
    if (!item) return null;
    return { id: Number(item.dataset.id), place: [...this.list.children].indexOf(item), role: document.activeElement.dataset.role };
  }

  restore(focus, regions) {
    if (!focus) return;
    const item = this.list.querySelector(`[data-id="${focus.id}"]`) ?? this.list.children[Math.min(focus.place, regions.length - 1)];
    const target = item?.querySelector(`[data-role="${focus.role}"]`) ?? item?.querySelector("button");
    (target ?? document.getElementById("canvas")).focus({ preventScroll: true });
  }

  item(region, place, selected, threshold) {
    const item = element("li", "thing"), active = region.id === selected, sure = isSure(region, threshold);
    item.dataset.id = region.id;
    item.classList.toggle("active", active);
    item.classList.toggle("unsure", !sure);
    item.addEventListener("pointerenter", () => this.acts.hover(region.id));
    item.addEventListener("pointerleave", () => this.acts.hover(null));
    item.append(this.head(region, place, active, sure));
    if (active) item.append(this.details(region));
    return item;
  }

  head(region, place, active, sure) {
    const head = element("div", "thing-head");
    const colour = sure ? classColour(nameOf(region)) : [128, 128, 128];
    const badge = element("span", "badge", String(place + 1));
    badge.style.background = css(colour);
    badge.style.color = inkOn(colour);
    head.append(badge);
    if (this.editing === region.id) {
      head.append(this.editor(region));
      return head;
    }
    const button = element("button", "thing-name");
    button.type = "button";
    button.dataset.role = "select";
    button.setAttribute("aria-pressed", String(active));
    const probability = probabilityOf(region);
    button.append(element("span", "name", nameOf(region)));
    button.append(element("span", "share", shareText(region, probability, sure)));
    if (probability !== null) button.append(bar(probability, colour));
    button.addEventListener("click", () => this.acts.select(active ? null : region.id));
    button.addEventListener("dblclick", () => this.edit(region.id));
    button.addEventListener("keydown", (event) => {
      if (event.key === "Delete") this.acts.remove(region.id);
      if (event.key === "F2") this.edit(region.id);
    });
    const rename = iconButton("pen", `Rename ${nameOf(region)}`, () => this.edit(region.id));
    rename.dataset.role = "rename";
    const remove = iconButton("bin", `Take out ${nameOf(region)}`, () => this.acts.remove(region.id));
    remove.dataset.role = "remove";
    head.append(button, rename, remove);
    return head;
  }

  details(region) {
    const details = element("div", "details");
    const list = element("ul", "runners");
    list.setAttribute("aria-label", "Other names");
    for (const { name, probability } of region.names) {
      if (name === nameOf(region) || probability < WORTH) continue;
      const item = element("li"), button = element("button", "runner");
      button.type = "button";
      button.dataset.role = `runner-${name}`;
      button.title = `Call it ${name}`;
      button.append(element("span", "name", name), element("span", "share", percent(probability)), bar(probability, classColour(name)));
      button.addEventListener("click", () => this.acts.rename(region.id, name));
      item.append(button);
      list.append(item);
    }
    if (list.children.length) details.append(list);
    if (region.known !== null && nameOf(region) !== NONE) {
      const none = element("p", "none");
      none.append(element("span", "name", NONE), element("span", "share", percent(1 - region.known)), bar(1 - region.known, [128, 128, 128]));
      details.append(none);
    }
    const [x, y, w, h] = region.box;
    details.append(element("p", "facts", `${w} × ${h} pixels at ${x}, ${y}`));
    return details;
  }

  editor(region) {
    const input = element("input", "rename");
    input.type = "text";
    input.value = nameOf(region);
    input.setAttribute("list", "classes");
    input.setAttribute("aria-label", "New name");
    input.maxLength = 100;
    let done = false;
    const end = (keep) => {
      if (done) return;
      done = true;
      this.editing = null;
      const name = input.value.trim();
      if (keep && name && name !== nameOf(region)) this.acts.rename(region.id, name);
      else this.acts.redraw();
      this.list.querySelector(`[data-id="${region.id}"] [data-role="rename"]`)?.focus({ preventScroll: true });
    };
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") {
        event.preventDefault(); // Else the button that gets the focus would be pressed.
        end(true);
      }
      if (event.key === "Escape") end(false);
      event.stopPropagation();
    });
    input.addEventListener("blur", () => end(true));
    return input;
  }

  edit(id) {
    this.editing = id;
    this.acts.redraw();
    const input = this.list.querySelector("input.rename");
    input?.focus();
    input?.select();
  }
}

function shareText(region, probability, sure) {
  if (probability === null) return "yours";
  return sure || region.isNone ? percent(probability) : `unsure, ${percent(probability)}`;
}

function bar(share, colour) {
  const outer = element("span", "bar-outer"), inner = element("span", "bar-inner");
  outer.setAttribute("aria-hidden", "true");
  inner.style.width = `${Math.max(100 * share, 1)}%`;
  inner.style.setProperty("--of-class", css(colour));
  outer.append(inner);
  return outer;
}
