// A search as the address bar holds it:
// ?key=SKU-17&like=neckline_design:70,sleeve_length:30&where.brand=Aube&where.price=10..50&side=1

export const FIRST = 24; // answers of a new search
export const MOST = 192; // the service gives at most 200
export const EVEN = 50; // weight of an attribute that was just chosen

/** A search that asks for nothing yet. */
export const nothing = () => ({
  key: "",
  upload: null, // {file, id, url}
  weights: {}, // by attribute, 5 to 100, in the order of choosing; 50 where nobody moved the slider
  filters: {}, // column -> values, or {min, max}
  side: false,
  same: false,
  absent: false,
  k: FIRST,
});

/** Read an address; what the catalog does not know (another snapshot's attribute, say) is left out. */
export function readAddress(text, known) {
  const given = new URLSearchParams(text);
  const search = nothing();
  search.key = given.get("key") ?? "";
  for (const part of (given.get("like") ?? "").split(",")) {
    const [name, weight] = part.split(":");
    if (known.attributes.some((each) => each.name === name)) search.weights[name] = between(weight, 5, 100, EVEN);
  }
  for (const column of known.columns) {
    const texts = given.getAll(`where.${column.name}`);
    if (!texts.length) continue;
    const values = column.values?.filter((value) => texts.includes(String(value)));
    if (values?.length !== 0) search.filters[column.name] = values ?? range(texts[0], column.type);
  }
  for (const flag of ["side", "same", "absent"]) search[flag] = given.get(flag) === "1";
  search.k = between(given.get("k"), 1, MOST, FIRST);
  return search;
}

function between(text, least, most, otherwise) {
  const number = Number(text);
  return Number.isFinite(number) && number > 0 ? Math.min(Math.max(number, least), most) : otherwise;
}

function range(text, type) {
  const [min, max] = text.split("..").map((end) => bound(end, type));
  return { min: min ?? null, max: max ?? null };
}

/** Read one end of a range; null where it is open. */
export function bound(text, type) {
  if (type === "date") return /^\d{4}-\d\d-\d\d$/.test(text) ? text : null;
  return text !== "" && Number.isFinite(Number(text)) ? Number(text) : null;
}

/** Whether an address was copied from a search with an upload, which no address can hold. */
export const wasUpload = (text) => new URLSearchParams(text).get("from") === "upload";

/** Write a search as an address; "" for the start. */
export function writeAddress(search) {
  const given = new URLSearchParams();
  if (search.upload) given.set("from", "upload");
  else if (search.key) given.set("key", search.key);
  const chosen = Object.entries(search.weights);
  const like = chosen.map(([name, weight]) => (chosen.length > 1 ? `${name}:${weight}` : name));
  if (like.length) given.set("like", like.join(","));
  for (const [name, filter] of Object.entries(search.filters)) {
    if (Array.isArray(filter)) for (const value of filter) given.append(`where.${name}`, value);
    else given.set(`where.${name}`, `${filter.min ?? ""}..${filter.max ?? ""}`);
  }
  for (const flag of ["side", "same", "absent"]) if (search[flag]) given.set(flag, "1");
  if (search.k !== FIRST) given.set("k", search.k);
  // Colons and commas are allowed in a query and read better as they are.
  const text = given.toString().replaceAll("%3A", ":").replaceAll("%2C", ",");
  return text ? `?${text}` : "";
}
