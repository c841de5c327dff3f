// The service's answers. Addresses are relative, so that the page also works below a prefix.
import { byId } from "./dom.js";

const KEPT = "look-alikes-token";

let asking = null;

async function request(path, options = {}) {
  const token = sessionStorage.getItem(KEPT);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { ...options, headers }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Error("The service does not answer. Check the connection, then try again.");
  });
  if (answer.status === 401) {
    if (token === sessionStorage.getItem(KEPT)) await askForToken(Boolean(token)); // else it was given meanwhile
    return request(path, options);
  }
  if (!answer.ok) throw new Error(await reason(answer));
  return answer;
}

async function reason(answer) {
  const { error } = await answer.json().catch(() => ({}));
  if (!error?.what) return `The service could not do this (${answer.status}). Try again in a moment.`;
  if (error.where === "key") return `The catalog has no product \u201c${error.found}\u201d. It may have gone since the link was made.`;
  return error.do?.startsWith("GET ") ? error.what : `${error.what} ${error.do ?? ""}`; // GET: for programs
}

/** Several requests may be refused at once; a person is asked once. */
function askForToken(wasWrong) {
  asking ??= new Promise((resolve) => {
    if (wasWrong) byId("ask-text").textContent = "That token was not accepted. Enter it again.";
    byId("ask").onclose = () => {
      sessionStorage.setItem(KEPT, byId("token").value);
      byId("token").value = "";
      asking = null;
      resolve();
    };
    byId("ask").showModal();
  });
  return asking;
}

const json = async (path, options) => (await request(path, options)).json();
const blob = async (path, options) => (await request(path, options)).blob();

/** A key in an address; slashes stay where no browser would take them for a step. */
function pathOf(key) {
  const steps = key.split("/");
  return steps.some((step) => /^\.{0,2}$/.test(step)) ? encodeURIComponent(key) : steps.map(encodeURIComponent).join("/");
}

export const attributes = () => json("attributes");
export const snapshot = () => json("snapshots/current");

export const products = (limit, offset, text, signal) =>
  json(`products?${new URLSearchParams({ limit, offset, q: text })}`, { signal });

/** Search with a product {key} or a picture {file}; weights are by attribute, of any sum. */
export function search(query, weights, options, signal) {
  const body = form({
    ...(query.file ? { picture: query.file } : { key: query.key }),
    attributes: JSON.stringify(weights),
    k: options.k,
    filters: JSON.stringify(options.filters),
    exclude_same_product: !options.same,
    include_absent: options.absent,
  });
  return json("search", { method: "POST", body, signal });
}

function form(fields) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  return body;
}

/** Set an image's source; an img element cannot send a token, so with one the bytes are fetched here. */
export async function showPicture(image, path) {
  if (!sessionStorage.getItem(KEPT)) image.src = path;
  else image.src = URL.createObjectURL(await blob(path));
}

/** Address of a product's picture. */
export const picturePath = (key, height) => `pictures/${pathOf(key)}?height=${height}`;

/** The map of where the model looks on a product or an upload. */
export function attention(query, attribute) {
  if (!query.file) return blob(`attention/${pathOf(query.key)}?${new URLSearchParams({ attribute })}`);
  return blob("attention", { method: "POST", body: form({ picture: query.file, attribute }) });
}
