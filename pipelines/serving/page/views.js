// What stands on the page: the query, the answers, the catalog, what went wrong.
import { EVEN, MOST } from "./address.js";
import { products } from "./api.js";
import { grid, photo, resultCard, startCard } from "./cards.js";
import { byId, make } from "./dom.js";
import { mapOnLook } from "./heat.js";
import { openSheet } from "./sheet.js";
import { counted, factLine, listed, plain, titled } from "./words.js";

const PAGE = 24;
const DAY = { day: "numeric", month: "long", year: "numeric" };

let shown = null; // the query whose picture stands in the panel

/** Say which catalog is searched. */
export function showCatalog({ num_products: count, published_at: published }) {
  const date = new Date(published).toLocaleDateString("en", DAY);
  byId("catalog").replaceChildren(make("span", counted(count, "product")), make("span", `as of ${date}`));
}

/** Set the page up for a search, or for the start. */
export function showView(search, query) {
  document.body.dataset.view = query ? "search" : "start";
  byId("together").setAttribute("aria-pressed", String(!search.side));
  byId("side").setAttribute("aria-pressed", String(search.side));
  if (Boolean(shown) === Boolean(query)) return;
  byId("results").replaceChildren();
  byId("title").textContent = byId("count").textContent = "";
  byId("left-out").hidden = byId("show-more").hidden = true;
  if (!query) shown = null;
}

/** Show that something is on its way; what stood there stays, paler. */
export function showBusy(isBusy) {
  const results = byId("results");
  byId("progress").hidden = !isBusy;
  results.setAttribute("aria-busy", String(isBusy));
  if (!isBusy || results.children.length) return;
  const blanks = Array.from({ length: 8 }, () => make("li", make("div.frame")));
  results.append(make("ul.grid", { "aria-hidden": "true" }, blanks));
}

/** Show the picture that is searched with; its map follows the search's main attribute. */
export function showQuery(query, known, attribute) {
  const place = byId("query-picture");
  const name = query.key ?? query.id;
  if (shown !== name) {
    const button = make("button.frame", photo(query, known, 640), make("span.looks", "Attention map"));
    mapOnLook(button, query, attribute);
    place.replaceChildren(button);
    shown = name;
  } else if (place.querySelector('[aria-pressed="true"]')) {
    place.firstChild.onpointerenter({ pointerType: "mouse" });
  }
  byId("query-title").textContent = query.file ? "Your picture" : query.key;
  const note = query.file ? "It stays on this page: a link cannot carry it." : factLine(query.columns, known);
  byId("query-note").textContent = note;
}

/** Show answers: one grid, or two columns. `names` are each one's attributes, heaviest first. */
export function showAnswers(answers, names, page) {
  const { search, known } = page;
  const keys = answers.map((answer) => new Set(answer.results.map((result) => result.key)));
  const isBoth = (key) => keys.length > 1 && keys.every((each) => each.has(key));
  const more = (result) =>
    openSheet(result, Object.keys(search.weights), known, (attribute) => page.go(result, attribute));
  const grids = answers.map(({ results }, index) => {
    const found = { known, attributes: names[index], query: page.predicted, more };
    const cards = results.map((result) => resultCard(result, { ...found, both: isBoth(result.key) }));
    return cards.length ? grid(cards, alike(names[index])) : nothingFound(page);
  });
  const isSide = answers.length > 1;
  byId("results").classList.toggle("columns", isSide);
  byId("results").replaceChildren(...(isSide ? grids.map((each, index) => column(each, names[index][0], index, page)) : grids));
  byId("title").textContent = isSide ? "Side by side" : alike(names[0]);
  byId("count").textContent = isSide ? countOfTwo(answers, isBoth) : countOf(answers[0]);
  showLeftOut(answers, names);
  byId("show-more").hidden = search.k >= MOST || answers.every(({ results }) => results.length < search.k);
}

const alike = (names) => `Alike in ${listed(names.map(plain))}`;

const countOf = ({ results: { length } }) => (length ? `${counted(length, "product")}, most alike first` : "No products");

function countOfTwo(answers, isBoth) {
  const both = answers[0].results.filter((result) => isBoth(result.key)).length;
  const [one, other] = answers.map(({ results }) => results.length);
  return `${one} and ${counted(other, "product")}, ${both || "none"} in both`;
}

function showLeftOut(answers, names) {
  const count = Math.max(...answers.map((answer) => answer.num_left_out));
  byId("left-out").hidden = !count;
  const what = listed([...new Set(names.flat())].map(plain), "or");
  byId("left-out").firstElementChild.textContent = `${counted(count, "product")} left out: the model sees no ${what} on them.`;
}

/** One column of the side by side, with its attribute to choose. */
function column(list, attribute, index, { search, known, change }) {
  const option = ({ name }) => make("option", { value: name, selected: name === attribute }, titled(name));
  const select = make("select", { "aria-label": `Attribute of column ${index + 1}` }, known.attributes.map(option));
  select.onchange = () => change((now) => (now.weights = exchanged(search.weights, index, select.value)));
  return make("section", { "aria-label": titled(attribute) }, select, list);
}

/** Weights with another attribute at a position; one that is there already changes places with it. */
function exchanged(weights, index, name) {
  const old = Object.keys(weights)[index];
  const now = { [name]: old, [old]: name };
  return Object.fromEntries(Object.keys(weights).map((each) => [now[each] ?? each, weights[now[each] ?? each] ?? EVEN]));
}

function nothingFound({ search, change }) {
  if (!Object.keys(search.filters).length) return empty("Nothing alike was found", "Try another attribute.");
  const clear = quiet("Clear filters", () => change((now) => (now.filters = {})));
  return empty("Nothing passes these filters", "Widen a range, or take a value away.", clear);
}

const quiet = (text, onclick) => make("button.quiet", { onclick }, text);
const empty = (title, advice, ...ways) => make("div.empty", make("h3", title), make("p.soft", advice), ways);

/** Show the catalog to start from: its first page, or the next one under it. */
export async function browse(known, pick, meet, signal, how = "anew") {
  const place = byId("results");
  const text = byId("find-key").value.trim();
  const list = how === "more" ? place.querySelector(".grid") : null;
  const offset = list?.children.length ?? 0;
  const { products: found, total } = await products(PAGE, offset, text, signal);
  meet(found);
  byId("title").textContent = "Or start from a product";
  byId("count").textContent = text ? counted(total, "product") : "";
  byId("show-more").hidden = offset + found.length >= total;
  const cards = found.map((product) => startCard(product, known, pick));
  if (list) {
    list.append(...cards);
    cards[0]?.querySelector("button").focus({ preventScroll: true });
    return;
  }
  place.classList.remove("columns");
  const none = empty("No product is called so", "A part of its number or brand is enough.");
  place.replaceChildren(cards.length ? grid(cards, "Products to start from") : none);
}

/** Say what went wrong and what to do; `again` and `startOver` are ways on. */
export function fail(error, again, startOver) {
  byId("notice").firstElementChild.textContent = error.message;
  byId("again").hidden = !again;
  byId("again").onclick = again;
  byId("dismiss").onclick = clearNotice;
  byId("notice").hidden = false;
  scrollTo(0, 0);
  if (startOver) byId("results").replaceChildren(empty("No results", "", quiet("Choose another picture", startOver)));
}

/** Take the last error away. */
export function clearNotice() {
  byId("notice").hidden = true;
}
