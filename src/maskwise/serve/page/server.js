// Requests to the server that sent this page, and nothing else.

const TOKEN = "maskwise-token";
const RETRIES = 3;

/** What a person reads when something goes wrong. */
export class Trouble extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Take the token out of the address, so that it is neither shown nor copied with it. */
export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem(TOKEN, given);
    history.replaceState(null, "", location.pathname + location.search);
  }
}

export const setToken = (token) => sessionStorage.setItem(TOKEN, token);

let askForToken = async () => false;
/** Say how a person is asked for the token; the function returns whether one was given. */
export const onTokenNeeded = (ask) => (askForToken = ask);

async function send(path, form, tries = RETRIES) {
  const token = sessionStorage.getItem(TOKEN);
  let answer;
  try {
    answer = await fetch(path, {
      method: form ? "POST" : "GET",
      body: form,
      headers: token ? { Authorization: `Bearer ${token}` } : {},
    });
  } catch {
    throw new Trouble("The server does not answer. Is it still running?");
  }
  if (answer.ok) return answer.json();
  if (answer.status === 503 && tries > 0) {
    await new Promise((wake) => setTimeout(wake, 1000 * Math.min(Number(answer.headers.get("Retry-After")) || 1, 15)));
    return send(path, form, tries - 1);
  }
  if (answer.status === 401 && (await askForToken())) return send(path, form, tries);
  let detail = `The server answered with status ${answer.status}.`;
  try {
    detail = (await answer.json()).detail || detail;
  } catch { /* Not JSON: the status has to do. */ }
  throw new Trouble(detail[0].toUpperCase() + detail.slice(1), answer.status);
}

function formOf(fields) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value instanceof File) form.append(name, value, value.name);
    else if (Array.isArray(value) && value[0] instanceof File) value.forEach((file) => form.append(name, file, file.name));
    else if (value !== null && value !== undefined) form.append(name, typeof value === "object" ? JSON.stringify(value) : value);
  }
  return form;
}

export const fetchModels = () => send("/v1/models");

/** A photograph on the server; it is sent again if the server has forgotten it. */
export class Photo {
  constructor(file) {
    this.file = file;
    this.sent = null;
  }

  /** Send the photograph; returns {image_id, width, height}. */
  keep() {
    this.sent ??= send("/v1/images", formOf({ image: this.file, prepare: true }));
    this.sent.catch(() => (this.sent = null));
    return this.sent;
  }

  async ask(path, fields) {
    const kept = await this.keep();
    try {
      return await send(path, formOf({ image_id: kept.image_id, ...fields }));
    } catch (trouble) {
      if (trouble.status !== 404) throw trouble;
      this.sent = null;
      return send(path, formOf({ image_id: (await this.keep()).image_id, ...fields }));
    }
  }

  /** Name regions, given in any of the forms of the API. */
  name(fields) {
    return this.ask("/v1/predict", { top: 5, segmentation: true, ...fields });
  }

  /** Find and name the things. */
  everything() {
    return this.ask("/v1/name", { top: 5, segmentation: true });
  }
}
