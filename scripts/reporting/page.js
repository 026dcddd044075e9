const PAGE = 20;
const data = JSON.parse(byId("data").textContent);

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

/* ---- what is clicked ---- */

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || withTip(button)) return;
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
