// "More like this for ...": one product, large, with all its attributes to go on with.
import { photo } from "./cards.js";
import { byId, make } from "./dom.js";
import { showMap } from "./heat.js";
import { factLine, lacks, listed, plain, seen, titled } from "./words.js";

/**
 * Open the sheet of a product.
 * @param {object} product as the service gives it
 * @param {string[]} chosen attributes of the present search
 * @param {(attribute: ?string) => void} go is given an attribute, or null for the present mix
 */
export function openSheet(product, chosen, known, go) {
  const sheet = byId("sheet");
  const frame = make("div.frame", photo(product, known, 640));
  const way = (text, said, attribute) => {
    const look = () => attribute && showMap(frame, product, attribute);
    const take = () => {
      sheet.close();
      go(attribute);
    };
    const act = { onclick: take, onpointerenter: look, onfocus: look };
    return make("li", make("button", act, make("span", text), make("small", said)));
  };
  const ways = bySight(product, known).map((name) => {
    const said = product.predicted?.[name];
    return way(titled(name), seen(said) || (lacks(said) ? "not seen" : ""), name);
  });
  if (chosen.length > 1) ways.unshift(way("The same mix", listed(chosen.map(plain)), null));
  const about = [product.key, factLine(product.columns, known)].filter(Boolean).join(" · ");
  sheet.replaceChildren(
    make("button.close", { onclick: () => sheet.close(), "aria-label": "Close" }, "\u00d7"),
    frame,
    make("div", make("h2", { id: "sheet-title" }, "More like this for\u2026"), make("p.soft", about)),
    make("ul.ways", ways),
  );
  sheet.onclick = (event) => event.target === sheet && sheet.close();
  sheet.showModal();
  sheet.querySelector(".ways button").focus();
}

/** What the model sees first, the rest after it. */
function bySight(product, known) {
  const names = known.attributes.map((each) => each.name);
  const isUnseen = (name) => lacks(product.predicted?.[name]);
  return [...names.filter((name) => !isUnseen(name)), ...names.filter(isUnseen)];
}
