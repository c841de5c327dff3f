// The panel: chips for the attributes, sliders for their weights.
import { EVEN } from "./address.js";
import { byId, make } from "./dom.js";
import { buildFilters, showFilters } from "./filters.js";
import { lacks, plain, sight, titled } from "./words.js";

const chips = new Map();
const sliders = new Map();

/** Build what does not change while the page is open. */
export function buildControls(known, change) {
  for (const { name } of known.attributes) {
    const said = make("small");
    const toggle = () => change((search) => toggled(search, name));
    const chip = make("button.chip", { onclick: toggle }, make("span", titled(name)), said);
    chips.set(name, { chip, said });
    byId("chips").append(chip);
  }
  for (const flag of ["same", "absent"]) byId(flag).onchange = (event) => change((search) => (search[flag] = event.target.checked));
  buildFilters(known, change);
}

function toggled(search, name) {
  if (!(name in search.weights)) search.weights[name] = EVEN;
  else if (Object.keys(search.weights).length > 1) delete search.weights[name];
}

/** Bring the panel to what a search holds. */
export function showControls(search, known, predicted, change) {
  showChips(search, known, predicted);
  showSliders(search, change);
  showFilters(search);
  byId("same").checked = search.same;
  byId("absent").checked = search.absent;
}

function showChips(search, known, predicted) {
  const unseen = byId("unseen");
  const others = unseen.lastElementChild;
  for (const { name } of known.attributes) {
    const { chip, said } = chips.get(name);
    const isChosen = name in search.weights;
    chip.setAttribute("aria-pressed", String(isChosen));
    said.textContent = sight(predicted?.[name]);
    const home = lacks(predicted?.[name]) && !isChosen ? others : byId("chips");
    if (chip.parentElement === home) continue;
    const isFocused = chip === document.activeElement;
    home.append(chip);
    if (isFocused) chip.focus();
  }
  unseen.hidden = !others.children.length;
  unseen.firstElementChild.textContent = `${others.children.length} that the model does not see here`;
}

function showSliders(search, change) {
  const chosen = Object.keys(search.weights);
  const names = search.side || chosen.length < 2 ? [] : chosen; // a column has one attribute
  for (const [name, { row }] of sliders) {
    if (names.includes(name)) continue;
    row.remove();
    sliders.delete(name);
  }
  const total = names.reduce((sum, name) => sum + search.weights[name], 0);
  for (const name of names) {
    if (!sliders.has(name)) sliders.set(name, slider(name, change));
    const { row, input, share } = sliders.get(name);
    const percent = Math.round((100 * search.weights[name]) / total);
    input.value = search.weights[name];
    input.setAttribute("aria-valuetext", `${percent} percent of the search`);
    share.textContent = `${percent}%`;
    if (!row.isConnected) byId("sliders").append(row);
  }
}

function slider(name, change) {
  const share = make("output");
  const input = make("input", { type: "range", min: 5, max: 100, step: 5, "aria-label": `Weight of ${plain(name)}` });
  input.oninput = () => change((search) => (search.weights[name] = Number(input.value)), "at rest");
  return { row: make("label", make("span", titled(name)), share, input), input, share };
}
