"use strict";

const PAGE = 20;
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

/** An element; children that are strings become text, so that nothing from the data is read as HTML. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/* ---- the gallery: which queries, in which order ---- */

const shown = { page: 0, only: null };

const isMiss = (query, run) => query.runs[run].best.every(([, relevant]) => !relevant);

function wantedQueries() {
  if (shown.only !== null) return [shown.only];
  const search = byId("search").value.trim().toLowerCase();
  const groups = data.groupings.map(({ key }) => byId(`group-${key}`).value);
  const misses = byId("misses").value;
  const wanted = data.queries.map((_, index) => index).filter((index) => {
    const query = data.queries[index];
    return (
      query.text.toLowerCase().includes(search) &&
      groups.every((group, place) => group === "" || query.groups[place] === Number(group)) &&
      (misses === "" || isMiss(query, Number(misses)))
    );
  });
  const [key, sign] = data.orders[byId("order").value];
  const values = data.keys[key];
  return wanted.sort((one, other) => sign * (values[one] - values[other]) || one - other);
}

function showGallery() {
  const wanted = wantedQueries();
  const pages = Math.max(1, Math.ceil(wanted.length / PAGE));
  shown.page = Math.min(Math.max(shown.page, 0), pages - 1);
  const start = shown.page * PAGE;
  const some = wanted.slice(start, start + PAGE);
  hideTip();
  byId("queries").replaceChildren(...some.map(queryCard));
  let status = `queries ${start + 1} to ${start + some.length} of ${wanted.length}`;
  if (wanted.length === 0) status = "no query is like this";
  else if (shown.only !== null) status = "one query, chosen above";
  else if (wanted.length < data.queries.length) status += ` (${data.queries.length} in all)`;
  for (const pager of document.querySelectorAll(".pager")) {
    pager.querySelector(".status").textContent = status;
    pager.querySelector('[data-step="-1"]').disabled = shown.page === 0;
    pager.querySelector('[data-step="1"]').disabled = shown.page === pages - 1;
  }
}

function showAll() {
  byId("controls").reset();
  byId("queries").classList.remove("show-weights");
  Object.assign(shown, { page: 0, only: null });
}

function queryCard(index) {
  const query = data.queries[index];
  const groups = data.groupings.map(({ title, labels }, place) => `${title.toLowerCase()}: ${labels[query.groups[place]]}`);
  const relevant = query.relevant === 1 ? "1 relevant meme" : `${query.relevant} relevant memes`;
  const facts = [query.id, relevant, ...groups.filter((_, place) => data.groupings[place].key !== "relevant")];
  const rankings = query.runs.map((result, run) => ranking(query, result, run));
  return element(
    "article",
    { class: "query", "data-query": index },
    element("h3", { dir: "auto" }, query.text),
    element("p", {}, facts.join(" · ")),
    element("div", { class: rankings.length > 1 ? "columns" : null }, ...rankings),
  );
}

/** One run's best memes for a query. */
function ranking(query, result, run) {
  const figures = element("p", {}, `AP ${result.ap.toFixed(1)}`);
  if (run > 0) {
    const change = result.ap - query.runs[0].ap;
    const sign = change < 0 ? "−" : "+";
    figures.append(element("span", { class: "change" }, ` (${sign}${Math.abs(change).toFixed(1)})`));
  }
  if (result.alpha !== undefined) figures.append(` · α ${result.alpha.toFixed(3)}`);
  const further = furtherRanks(...result.further);
  return element(
    "div",
    { class: "ranking" },
    data.runs.length > 1 ? element("h4", {}, data.runs[run].name) : null,
    figures,
    result.words ? weightedWords(result.words) : null,
    element("ol", { class: "memes" }, ...result.best.map((meme, place) => element("li", {}, memeButton(meme, place + 1)))),
    further && element("p", { class: "further" }, further),
  );
}

/** The ranks of the relevant memes below the best ones: the first of them, and how many they are. */
function furtherRanks(ranks, count) {
  if (count === 0) return null;
  if (count === 1) return `A further relevant meme is at rank ${ranks[0]}`;
  const rest = count > ranks.length ? ` … (${count} in all)` : "";
  return `Further relevant memes are at ranks ${ranks.join(", ")}${rest}`;
}

/** WTI's words, shaded by their weights; the darkest shade is the largest weight of the query. */
function weightedWords(words) {
  const largest = Math.max(...words.map(([, weight]) => weight));
  const pieces = words.map(([text, weight]) => {
    const isMark = text === "<start>" || text === "<end>";
    const piece = element("span", { title: `weight ${weight.toFixed(3)}`, "data-weight": weight.toFixed(3), class: isMark ? "mark" : null }, text.trimEnd());
    piece.style.setProperty("--share", (0.6 * weight) / largest);
    return [piece, isMark || text.endsWith(" ") ? " " : ""];
  });
  return element("p", { class: "words", dir: "auto" }, ...pieces.flat());
}

const picture = (meme) => (meme.picture === undefined || meme.picture === null ? null : `data:image/webp;base64,${data.pictures[meme.picture]}`);

function memeButton([place, relevant, qi, qc], rank) {
  const meme = data.memes[place];
  const source = picture(meme);
  const branches = qi === undefined ? [] : [`QI ${qi}`, `QC ${qc}`];
  const said = [`rank ${rank}`, relevant ? "relevant" : "not relevant", ...branches, `meme ${meme.id}`].join(", ");
  const button = element(
    "button",
    { type: "button", class: relevant ? "meme relevant" : "meme", "aria-label": said, "data-id": meme.id },
    source ? element("img", { src: source, alt: "" }) : element("span", { class: "blank" }, meme.id),
    element(
      "span",
      { class: "ranks" },
      element("span", { class: "rank" }, String(rank), relevant ? element("span", { class: "check" }, "✓") : null),
      ...branches.map((text) => element("span", {}, text)),
    ),
  );
  button.tip = () => memeTip(meme, source, [relevant ? "relevant" : "not relevant", `fused ${rank}`, ...branches].join(" · "));
  return button;
}

/* ---- tips: of memes and of charts; under the mouse, on focus, or kept by a click ---- */

const tip = byId("tip");
let tipOwner = null;

function memeTip(meme, source, ranks) {
  const list = element("dl");
  const add = (name, ...texts) => texts.length && list.append(element("dt", {}, name), ...texts.map((text) => element("dd", { dir: "auto" }, text)));
  add(ranks, meme.id);
  add("Captions", ...(meme.captions.length ? meme.captions : ["none"]));
  add("Emotions", meme.emotions.length ? meme.emotions.join(", ") : "none");
  if (meme.text.trim()) add("Text on the image", meme.text);
  return source ? [element("img", { src: source, alt: "" }), list] : [list];
}

const withTip = (target) => (target instanceof Element ? target.closest(".meme, .spot") : null);

function showTip(owner, pinned) {
  hideTip();
  tipOwner = owner;
  tip.replaceChildren(...(owner.tip ? owner.tip() : [owner.dataset.tip]));
  tip.classList.toggle("of-meme", Boolean(owner.tip));
  tip.classList.toggle("pinned", pinned);
  tip.hidden = false;
  owner.setAttribute("aria-describedby", "tip");
  owner.classList.add("shown");
  const place = owner.getBoundingClientRect();
  const width = document.documentElement.clientWidth;
  const left = Math.min(Math.max(8, place.left), width - tip.offsetWidth - 8);
  const below = place.bottom + 6 + tip.offsetHeight < innerHeight || place.top < tip.offsetHeight + 6;
  tip.style.setProperty("--left", `${left + scrollX}px`);
  const top = below ? place.bottom + 6 : place.top - 6 - tip.offsetHeight;
  tip.style.setProperty("--top", `${top + scrollY}px`);
}

function hideTip() {
  if (tipOwner) {
    tipOwner.removeAttribute("aria-describedby");
    tipOwner.classList.remove("shown");
  }
  tipOwner = null;
  tip.hidden = true;
  tip.classList.remove("pinned");
}

const isPinned = () => tip.classList.contains("pinned");

document.addEventListener("pointerover", (event) => {
  const owner = withTip(event.target);
  if (event.pointerType !== "mouse" || isPinned() || owner === tipOwner) return;
  if (owner) showTip(owner, false);
  else hideTip();
});
document.addEventListener("focusin", (event) => {
  const owner = withTip(event.target);
  if (owner && owner.matches(":focus-visible")) showTip(owner, false);
});
document.addEventListener("focusout", () => isPinned() || hideTip());
document.addEventListener("keydown", (event) => event.key === "Escape" && hideTip());

/* ---- what is clicked ---- */

document.addEventListener("click", (event) => {
  const owner = withTip(event.target);
  if (owner) {
    if (owner === tipOwner && isPinned()) hideTip();
    else showTip(owner, true);
    return;
  }
  if (!tip.contains(event.target)) hideTip();
  const button = event.target.closest("button");
  if (!button) return;
  if (button.id === "show-all") {
    showAll();
    showGallery();
  } else if (button.dataset.step) {
    shown.page += Number(button.dataset.step);
    showGallery();
    byId("controls").scrollIntoView();
  } else if (button.dataset.query || button.dataset.group) {
    showAll();
    if (button.dataset.query) shown.only = Number(button.dataset.query);
    else byId(`group-${button.dataset.grouping}`).value = button.dataset.group;
    showGallery();
    byId("gallery").scrollIntoView();
  }
});

byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("controls").addEventListener("input", (event) => {
  if (event.target.id === "weights") {
    byId("queries").classList.toggle("show-weights", event.target.checked);
    return;
  }
  Object.assign(shown, { page: 0, only: null });
  showGallery();
});

/* ---- one of several panels at a time ---- */

for (const panels of document.querySelectorAll(".panels")) {
  const all = [...panels.querySelectorAll(":scope > .panel")];
  const tabs = all.map((panel) => element("button", { type: "button" }, panel.querySelector("h3").textContent));
  const choose = (chosen) =>
    all.forEach((panel, place) => {
      panel.hidden = place !== chosen;
      tabs[place].setAttribute("aria-pressed", String(place === chosen));
    });
  tabs.forEach((tab, place) => tab.addEventListener("click", () => choose(place)));
  panels.prepend(element("div", { class: "tabs", role: "group" }, ...tabs));
  choose(0);
}

showGallery();
