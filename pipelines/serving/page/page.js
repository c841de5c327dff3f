// The page: holds the search, asks the service, shows what it says.
import { EVEN, FIRST, MOST, nothing, readAddress, wasUpload, writeAddress } from "./address.js";
import * as api from "./api.js";
import { listenForPictures } from "./chooser.js";
import { buildControls, showControls } from "./controls.js";
import { byId, toast } from "./dom.js";
import { browse, clearNotice, fail, showAnswers, showBusy, showCatalog, showQuery, showView } from "./views.js";
import { lacks } from "./words.js";

const REST_MS = 160; // a slider that is dragged, a number that is typed: asked for once it rests
const FROM_UPLOAD = "This link was made with a picture that no link can carry. Drop that picture here: all else is set.";

let known = null; // attributes and columns of the catalog
let search = nothing();
let snapshot = "";
let asked = new AbortController();
let timer = 0;
const uploads = new Map(); // id -> {file, id, url}; an address cannot hold them, the history's state their ids
const met = new Map(); // key, or id of an upload -> {predicted, columns} of all that was shown

const query = () => search.upload ?? (search.key ? { key: search.key, ...met.get(search.key) } : null);
const predicted = () => met.get(search.upload?.id ?? search.key)?.predicted;

/** Change the search, its address and what is shown; how: "at once", "at rest" or "more". */
function change(alter, how = "at once") {
  alter(search);
  if (how === "at once") search.k = FIRST;
  remember(how === "at once" ? "pushState" : "replaceState");
  showControls(search, known, predicted(), change);
  runSoon(how === "at rest" ? REST_MS : 0);
}

function runSoon(wait) {
  clearTimeout(timer);
  timer = setTimeout(run, wait);
}

function remember(way) {
  const address = writeAddress(search);
  history[address === location.search ? "replaceState" : way]({ upload: search.upload?.id }, "", address || location.pathname);
}

/** Ask the service what the search says, and show it. */
async function run() {
  asked.abort();
  asked = new AbortController();
  const { signal } = asked;
  clearNotice();
  showView(search, query());
  showBusy(true);
  try {
    if (query()) await answer(signal);
    else await browse(known, pick, meet, signal);
  } catch (error) {
    if (!signal.aborted) fail(error, run, query() && startOver);
  } finally {
    if (!signal.aborted) showBusy(false);
  }
}

async function answer(signal) {
  showQuery(query(), known, mainAttribute);
  if (!Object.keys(search.weights).length) await chooseAttribute(signal);
  if (search.side) addSecond();
  showControls(search, known, predicted(), change);
  const names = Object.keys(search.weights);
  const wanted = search.side ? names.slice(0, 2).map((name) => ({ [name]: 1 })) : [search.weights];
  const answers = await Promise.all(wanted.map((weights) => api.search(query(), weights, search, signal)));
  if (signal.aborted) return;
  meetQuery(answers[0].query);
  for (const { results } of answers) meet(results);
  showControls(search, known, predicted(), change);
  showQuery(query(), known, mainAttribute);
  showAnswers(answers, wanted.map(byWeight), { search, known, predicted: predicted(), change, go });
  if (answers[0].snapshot !== snapshot) await tellSnapshot();
}

/** Start with what the model is surest to see, so that a picture alone already gives an answer. */
async function chooseAttribute(signal) {
  if (!predicted()) {
    const any = { [known.attributes[0].name]: 1 };
    meetQuery((await api.search(query(), any, { ...nothing(), absent: true, k: 1 }, signal)).query);
  }
  search.weights = { [surest()[0]]: EVEN };
  remember("replaceState");
}

function addSecond() {
  const second = surest().find((name) => !(name in search.weights));
  if (!second || Object.keys(search.weights).length > 1) return;
  search.weights[second] = EVEN;
  remember("replaceState");
}

function surest() {
  const said = predicted() ?? {};
  const sureness = (name) => (lacks(said[name]) ? -1 : (said[name]?.score ?? 0));
  return known.attributes.map((each) => each.name).sort((a, b) => sureness(b) - sureness(a));
}

const byWeight = (weights) => Object.keys(weights).sort((a, b) => weights[b] - weights[a]);
const mainAttribute = () => byWeight(search.weights)[0];

const meetQuery = (said) => meet([{ ...said, key: search.upload?.id ?? search.key }]);

function meet(products) {
  for (const { key, predicted, columns } of products) {
    const before = met.get(key);
    met.set(key, { predicted: predicted ?? before?.predicted, columns: columns ?? before?.columns });
  }
}

async function tellSnapshot() {
  const current = await api.snapshot();
  snapshot = current.snapshot;
  showCatalog(current);
}

const startOver = () => change((now) => Object.assign(now, nothing()));

/** Search with a product of the catalog. */
const pick = (product) => goOn((now) => Object.assign(now, { key: product.key, upload: null }));

/** Go on from an answer: with one attribute, or null for the present mix. */
function go(product, attribute) {
  goOn((now) => {
    Object.assign(now, { key: product.key, upload: null });
    if (attribute) Object.assign(now, { weights: { [attribute]: EVEN }, side: false });
  });
}

function take(file) {
  const upload = { file, id: crypto.getRandomValues(new Uint32Array(1))[0], url: URL.createObjectURL(file) };
  uploads.set(upload.id, upload);
  goOn((now) => Object.assign(now, { key: "", upload }));
}

/** What had the focus goes away with the old pictures. */
function goOn(alter) {
  change(alter);
  byId("main").focus();
  scrollTo(0, 0);
}

async function share() {
  if (search.upload) return toast("A link cannot carry your picture. A search from a product can be shared.");
  try {
    await navigator.clipboard.writeText(location.href);
    toast("Link copied");
  } catch {
    toast("Copy it from the address bar: the address holds the whole search.");
  }
}

function showMore() {
  if (query()) return change((now) => (now.k = Math.min(now.k + FIRST, MOST)), "more");
  return browse(known, pick, meet, asked.signal, "more").catch((error) => fail(error, run));
}

async function readAll() {
  search = readAddress(location.search, known);
  search.upload = uploads.get(history.state?.upload) ?? null;
  showControls(search, known, predicted(), change);
  await run();
  if (wasUpload(location.search) && !search.upload) fail(new Error(FROM_UPLOAD));
}

function listen() {
  listenForPictures(take, fail);
  addEventListener("popstate", readAll);
  const onClick = {
    home: startOver,
    another: startOver,
    share,
    "show-more": showMore,
    together: () => change((now) => (now.side = false)),
    side: () => change((now) => (now.side = true)),
    "bring-back": () => change((now) => (now.absent = true)),
  };
  for (const [id, act] of Object.entries(onClick)) {
    byId(id).addEventListener("click", (event) => {
      event.preventDefault();
      act();
    });
  }
  byId("find").addEventListener("submit", (event) => event.preventDefault());
  byId("find").addEventListener("input", () => runSoon(REST_MS));
}

async function open() {
  showBusy(true);
  try {
    known = await api.attributes();
    await tellSnapshot();
    buildControls(known, change);
    listen();
    await readAll();
  } catch (error) {
    showBusy(false);
    fail(error, () => location.reload());
  }
}

open();
