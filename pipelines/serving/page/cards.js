// Pictures in a grid: products to start from, and answers with what they were found for.
import { picturePath, showPicture } from "./api.js";
import { make, spoken } from "./dom.js";
import { mapOnLook } from "./heat.js";
import { factLine, facts, lacks, plain, seen, titled } from "./words.js";

const HEIGHT = 400; // pixels: twice the height of a card on a phone, once on a desk

/** An img of a product or an upload. */
export function photo(product, known, height = HEIGHT) {
  const about = [product.key, factLine(product.columns, known)].filter(Boolean).join(", ");
  const alt = product.url ? "Your picture" : `Product ${about}`;
  const image = make("img.photo", { alt, loading: "lazy", decoding: "async" });
  const fail = () => image.closest(".frame")?.classList.add("broken");
  image.onerror = fail;
  if (product.url) image.src = product.url;
  else showPicture(image, picturePath(product.key, height)).catch(fail);
  return image;
}

/** Lay cards out as a list that the arrow keys walk through. */
export function grid(cards, label) {
  const list = make("ul.grid", { "aria-label": label }, cards);
  cards.forEach((card, index) => reach(card, index === 0));
  list.addEventListener("focusin", (event) => {
    const now = event.target.closest(".card");
    for (const card of list.children) reach(card, card === now);
  });
  list.onkeydown = (event) => {
    const now = event.target.closest(".card");
    const next = now && neighbour(list, now, event.key);
    if (!next) return;
    event.preventDefault();
    const position = [...now.querySelectorAll("button")].indexOf(event.target);
    next.querySelectorAll("button")[position].focus();
  };
  return list;
}

/** One card's buttons stand in the tab order, or the way past 48 cards would be 96 presses long. */
function reach(card, isReached) {
  for (const button of card.querySelectorAll("button")) button.tabIndex = isReached ? 0 : -1;
}

function neighbour(list, card, key) {
  const cards = [...list.children];
  const across = cards.filter((each) => each.offsetTop === cards[0].offsetTop).length;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across };
  if (key === "Home") return cards[0];
  return key === "End" ? cards.at(-1) : cards[cards.indexOf(card) + steps[key]];
}

/** A product of the catalog to start from. */
export function startCard(product, known, pick) {
  const button = make("button.frame", { onclick: () => pick(product) }, spoken("Search with"), photo(product, known));
  return make("li.card", button, shop(product, known));
}

/** The shop's own columns: the first that many products share (a brand) with the numbers, the others, and its key. */
function shop(product, known) {
  const texts = facts(product.columns, known);
  const [first = "", ...rest] = texts.filter((each) => !each.isNumber && each.isShared).map((each) => each.text);
  const numbers = texts.filter((each) => each.isNumber).map((each) => each.text);
  const head = make("p", make("span", first), make("span", numbers.join(" · ")));
  return make("div.shop", head, rest.length ? make("p", rest.join(" · ")) : [], make("p", product.key));
}

/** One answer; `found` is what it was found for: {known, attributes, query (its predicted values), both, more}. */
export function resultCard(result, found) {
  const { known, attributes } = found;
  const [main] = attributes;
  const button = make("button.frame", photo(result, known), spoken(`Show where the model looks for ${plain(main)}`));
  button.append(make("span.looks", { "aria-hidden": "true" }, plain(main)));
  if (found.both) button.append(make("span.both", "in both"));
  mapOnLook(button, { key: result.key }, () => main);

  const isMix = attributes.length > 1;
  const head = make("p.said", isMix ? make("b", "Together") : value(result, found, main), score(result.score));
  const act = { onclick: () => found.more(result), "aria-haspopup": "dialog" };
  const more = make("button.more", act, "More like this for\u2026", spoken(` (${result.key})`));
  return make("li.card", { "data-key": result.key }, button, head, isMix ? parts(result, found) : [], shop(result, known), more);
}

const score = (number) => make("span.score", spoken("score "), number.toFixed(3)); // by two digits the best are all the same

/** What the model names on a result, marked where the query has the same. */
function value(result, { query }, attribute) {
  const said = result.predicted?.[attribute];
  const text = seen(said) || (lacks(said) ? `no ${plain(attribute)}` : attribute);
  const isSame = Boolean(seen(said)) && said.value === query?.[attribute]?.value;
  if (!isSame) return make("b", titled(text));
  return make("b.same", { title: "The model names the same on your picture" }, titled(text), spoken(", as on your picture"));
}

function parts(result, found) {
  const row = (name) => make("div", make("dt", titled(name)), make("dd", value(result, found, name), score(result.scores[name])));
  return make("dl.parts", found.attributes.map(row));
}
