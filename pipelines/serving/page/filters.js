// Filters from the catalog's own columns: a choice where there are values, two ends where there are numbers or dates.
import { bound } from "./address.js";
import { byId, make, spoken } from "./dom.js";
import { plain, titled } from "./words.js";

const shows = new Map(); // column -> function that brings its field to a filter

/** Build a field for each column with few enough values to choose from, or with ends. */
export function buildFilters(known, change) {
  const columns = known.columns.filter(({ values, min }) => values?.length > 1 || (min ?? null) !== null);
  const set = (name, filter) =>
    change((search) => {
      if (filter) search.filters[name] = filter;
      else delete search.filters[name];
    });
  const field = (column) => (column.values?.length ? choice : span)(column, (filter) => set(column.name, filter));
  byId("filter-fields").append(...columns.map(field));
  byId("clear").onclick = () => change((search) => (search.filters = {}));
}

/** Bring the fields to what a search holds. */
export function showFilters({ filters }) {
  for (const [name, show] of shows) show(filters[name]);
  const count = Object.values(filters).flat().length;
  byId("filter-count").textContent = count ? `(${count})` : "";
  byId("clear").hidden = !count;
}

function choice({ name, values }, set) {
  const options = values.map((value) => make("option", { value }, plain(value)));
  const select = make("select", make("option", { value: "" }), options);
  const picked = make("div.picked");
  let chosen = [];
  select.onchange = () => set(values.filter((value) => chosen.includes(value) || String(value) === select.value));
  const drop = (value) => {
    const left = chosen.filter((each) => each !== value);
    set(left.length ? left : null);
    select.focus();
  };
  shows.set(name, (filter) => {
    chosen = filter ?? [];
    select.value = "";
    select.options[0].textContent = chosen.length ? "Add another" : "Any";
    const tag = (value) => make("button.tag", { onclick: () => drop(value) }, plain(value), spoken(": take away"));
    picked.replaceChildren(...chosen.map(tag));
  });
  return make("div.field", make("label", make("span", titled(name)), select), picked);
}

function span({ name, type, min, max }, set) {
  const kind = type === "date" ? { type, min, max } : { type: "number", inputMode: "decimal", step: "any" };
  const end = (word, placeholder) => make("input", kind, { placeholder, "aria-label": `${titled(name)} ${word}` });
  const from = end("from", `from ${Math.floor(min)}`);
  const to = end("to", `to ${Math.ceil(max)}`);
  from.onchange = to.onchange = () => {
    const [low, high] = [from, to].map((input) => bound(input.value, type));
    const isTurned = low !== null && high !== null && low > high;
    to.setCustomValidity(isTurned ? "This is below the lower end." : "");
    if (from.reportValidity() && to.reportValidity()) set(low === null && high === null ? null : { min: low, max: high });
  };
  shows.set(name, (filter) => {
    from.value = filter?.min ?? "";
    to.value = filter?.max ?? "";
  });
  return make("fieldset.field", make("legend", titled(name)), make("div.ends", from, to));
}
