// How names and numbers of the catalog are written for people.

/** neckline_design -> neckline design */
export const plain = (name) => String(name).replaceAll("_", " ");

/** neckline_design -> Neckline design */
export function titled(name) {
  const text = plain(name);
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** 1, "product" -> 1 product */
export const counted = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;

/** a, b and c */
export const listed = (texts, last = "and") =>
  texts.length < 2 ? texts.join("") : `${texts.slice(0, -1).join(", ")} ${last} ${texts.at(-1)}`;

/** What the model sees of an attribute, or "" where it names nothing. */
export const seen = (said) => (said?.value && said.value !== "invisible" ? plain(said.value) : "");

/** What a chip says of it. */
export const sight = (said) => seen(said) || (lacks(said) ? "not seen" : "");

/** Whether the model says that a picture lacks an attribute; one that it cannot tell about is not lacking. */
export const lacks = (said) => said?.applies === false || said?.value === "invisible";

/** A product's own columns as texts, in the order of the service; empty ones are left out. */
export function facts(columns, known) {
  const texts = known.columns.map(({ name, values }) => ({
    text: written(columns?.[name], name),
    isNumber: typeof columns?.[name] === "number",
    isShared: values?.length > 0, // unlike a SKU
  }));
  return texts.filter(({ text }) => text);
}

function written(value, name) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return plain(value);
  const least = name === "price" || !Number.isInteger(value) ? 2 : 0;
  return value.toLocaleString("en", { minimumFractionDigits: least, maximumFractionDigits: 2 });
}

/** The same in one line. */
export const factLine = (columns, known) => facts(columns, known).map(({ text }) => text).join(" · ");
