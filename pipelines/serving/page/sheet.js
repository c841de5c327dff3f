// "More like this for ...": one product, large, with all its attributes to go on with.
import { photo } from "./cards.js";
import { byId, make } from "./dom.js";
import { showMap } from "./heat.js";
import { factLine, lacks, listed, plain, sight, titled } from "./words.js";

/** Open the sheet of a product; `go` is given an attribute, or null for the mix that is `chosen` now. */
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
  const saidOf = ({ name }) => product.predicted?.[name];
  const seenFirst = known.attributes.toSorted((a, b) => lacks(saidOf(a)) - lacks(saidOf(b)));
  const ways = seenFirst.map((each) => way(titled(each.name), sight(saidOf(each)), each.name));
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

