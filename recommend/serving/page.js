const data = JSON.parse(byId("data").textContent);
const STEP = 20; // memes of a page, and by how many it grows
const SLOW = 150; // milliseconds until a search shows that it goes on
const OPTIONS = ["plus", "minus", "emotion", "top", "min_score", "duplicates"];

/* ---- what is asked: it stands in the address, as the API takes it; `picture` is a file that only this page has ---- */

const pictures = new Map();
let asked = new URLSearchParams();

function read() {
  asked = new URLSearchParams(location.search);
  document.title = [title(), "Memes for a sentence"].filter(Boolean).join(" – ");
}
const isEmpty = (wanted) => !["text", "like", "picture", "plus", "minus", "emotion"].some((name) => wanted.get(name)?.trim());
const without = (name, value) => {
  const wanted = new URLSearchParams(asked);
  const rest = value === undefined ? [] : wanted.getAll(name).filter((other) => other !== value);
  wanted.delete(name);
  rest.forEach((other) => wanted.append(name, other));
  return wanted;
};

/** What is asked, in a line: it tells the entries of the browser's history apart. */
function title() {
  const further = (sign, name) => asked.getAll(name).map((text) => `${sign} ${text}`);
  const like = asked.get("like") ?? (asked.has("picture") ? "your picture" : null);
  const parts = [asked.get("text"), like && `like ${like}`, ...further("and", "plus"), ...further("but not", "minus")];
  const emotion = asked.get("emotion");
  return [...parts, emotion && `prefers: ${emotion}`].filter(Boolean).join(", ");
}

/** Go to another search; the back button leads to this one. */
function go(wanted, focus) {
  history.replaceState({ ...history.state, scroll: scrollY }, "");
  const query = wanted.toString();
  if (query !== asked.toString()) history.pushState({}, "", query ? `/?${query}` : "/");
  show({ focus });
}

/** The address of what the form holds. */
function ofForm() {
  const wanted = new URLSearchParams();
  const put = (name, value) => value !== "" && wanted.append(name, value);
  put("text", byId("text").value.trim());
  for (const name of ["like", "picture"]) put(name, asked.get(name) ?? "");
  for (const part of document.querySelectorAll(".part")) {
    const [sign, text, weight] = part.querySelectorAll("select, input");
    if (!text.value.trim()) continue;
    wanted.append(sign.value, text.value.trim());
    wanted.append(`${sign.value}_weight`, weight.value || "1");
  }
  put("emotion", byId("emotion")?.value.trim() ?? "");
  asked.getAll("seen").forEach((id) => wanted.append("seen", id));
  put("top", byId("top").value);
  put("min_score", byId("min_score").value);
  if (byId("duplicates").checked) wanted.append("duplicates", "true");
  return wanted;
}

/** Have the form hold what is asked. One that does keeps its fields, and the focus in them. */
function fillForm() {
  if (ofForm().toString() !== asked.toString()) fillFields();
  byId("top").placeholder = String(STEP);
  if (["plus", "minus", "min_score"].some((name) => asked.get(name))) byId("options").open = true;
  byId("chosen").replaceChildren(...chosen());
}

function fillFields() {
  byId("text").value = asked.get("text") ?? "";
  const parts = ["plus", "minus"].flatMap((sign) => {
    const weights = asked.getAll(`${sign}_weight`);
    return asked.getAll(sign).map((text, place) => part(sign, text, weights[place] ?? "1"));
  });
  byId("parts").replaceChildren(...parts);
  if (byId("emotion")) byId("emotion").value = asked.get("emotion") ?? "";
  for (const name of ["top", "min_score"]) byId(name).value = asked.get(name) ?? "";
  byId("duplicates").checked = asked.get("duplicates") === "true";
}

/** A further sentence, which is added or taken away. */
function part(sign, text, weight) {
  const choice = (value, label) => element("option", { value, selected: value === sign ? "" : null }, label);
  const remove = element("button", { type: "button", class: "button", "aria-label": "remove this sentence" }, "×");
  const made = element(
    "div",
    { class: "part" },
    element("select", { "aria-label": "added or taken away" }, choice("plus", "and"), choice("minus", "but not")),
    element("input", { type: "text", dir: "auto", "aria-label": "a further sentence", maxlength: byId("text").maxLength, value: text }),
    element("input", { type: "number", "aria-label": "its weight", title: "weight", min: 0.01, max: data.limits.weight, step: "any", value: weight }),
    remove,
  );
  remove.addEventListener("click", () => made.remove());
  return made;
}

/** What the search asks for beside its sentence, each with a button that takes it away. */
function chosen() {
  const item = (label, picture, taken) => {
    const remove = element("button", { type: "button", "aria-label": `without: ${label}` }, "×");
    remove.addEventListener("click", () => go(taken, byId("text")));
    const image = picture ? element("img", { src: picture, alt: "" }) : null;
    image?.addEventListener("error", () => image.remove()); // of no picture, of an id that is not in the index
    return element("li", {}, image, element("span", { dir: "auto" }, label), remove);
  };
  const items = [];
  const like = asked.get("like");
  if (like) items.push(item("like this one", thumbnail(like), without("like")));
  const picture = pictures.get(asked.get("picture"));
  if (picture) items.push(item("like your picture", picture.address, without("picture")));
  if (asked.get("emotion")) items.push(item(`prefers: ${asked.get("emotion")}`, null, without("emotion")));
  const seen = asked.getAll("seen").length;
  if (seen) items.push(item(`${seen} left out`, null, without("seen")));
  return items;
}

/* ---- the answer ---- */

const thumbnail = (id) => `/api/thumbnail?id=${encodeURIComponent(id.toWellFormed?.() ?? id)}`;
const image = (id) => `/api/image?id=${encodeURIComponent(id.toWellFormed?.() ?? id)}`;
let running = null;

/** Search for what the address says. focus: what gets the focus then; scroll: how far down the page was. */
async function show({ focus, scroll = 0 } = {}) {
  read();
  running?.abort();
  const own = (running = new AbortController());
  hideTip();
  fillForm();
  byId("error").hidden = true;
  if (isEmpty(asked)) {
    busy(false);
    render(null);
    focus?.focus();
    return;
  }
  const started = performance.now();
  busy(true);
  const waiting = setTimeout(() => slow(true), SLOW);
  const ticking = setInterval(() => tell(`searching, ${Math.round((performance.now() - started) / 1000)} s`), 1000);
  let answer = null;
  try {
    answer = await fetched(own.signal);
  } catch (error) {
    if (own.signal.aborted) return;
    if (error instanceof Refused && OPTIONS.some((name) => asked.get(name))) byId("options").open = true;
    fail(error instanceof Refused ? error.message : "The server does not answer. Does it still run?");
  } finally {
    clearTimeout(waiting);
    clearInterval(ticking);
  }
  if (running !== own) return;
  busy(false);
  if (answer === null) return;
  if (answer.like !== null && asked.has("picture")) {
    const known = without("picture");
    known.set("like", answer.like);
    history.replaceState(history.state, "", `/?${known}`);
    read();
    fillForm();
  }
  render(answer, Math.round(performance.now() - started));
  scrollTo(0, scroll);
  focus?.focus({ preventScroll: true });
}

class Refused extends Error {}

async function fetched(signal) {
  const options = without("picture");
  if (!options.has("top")) options.set("top", STEP);
  const key = asked.get("picture");
  const picture = pictures.get(key);
  if (key !== null && !picture) throw new Refused("The picture of this search is not here any more: drop it again.");
  const how = picture ? { method: "POST", body: picture.file, headers: { "Content-Type": "application/octet-stream" } } : {};
  const response = await fetch(`/api/search?${options}`, { ...how, signal });
  const answer = await response.json().catch(() => ({ error: `The server answers with the status ${response.status}.` }));
  if (!response.ok) throw new Refused(answer.error);
  return answer;
}

const tell = (text) => (byId("status").textContent = text);

function busy(is) {
  byId("results").setAttribute("aria-busy", String(is));
  if (!is) slow(false);
}

function slow(is) {
  byId("progress").hidden = !is;
  byId("results").classList.toggle("slow", is);
  if (is) tell("searching …");
}

function fail(text) {
  render(null);
  byId("start").replaceChildren();
  byId("error").textContent = text;
  byId("error").hidden = false;
}

function render(answer, milliseconds) {
  const memes = answer?.memes ?? [];
  byId("how").replaceChildren(...(answer ? how(answer) : []));
  byId("memes").replaceChildren(...memes.map(card));
  const top = Number(asked.get("top") ?? STEP);
  byId("more").hidden = !answer || memes.length < top || top >= data.limits.top || memes.length >= answer.gallery;
  byId("start").replaceChildren(...(answer ? [] : start()));
  if (!answer) tell("");
  else if (memes.length) tell(`${memes.length} of ${count(answer.gallery)} memes, best first · ${milliseconds} ms`);
  else tell(nothing(answer));
}

const count = (number) => number.toLocaleString("en");

function nothing(answer) {
  if (asked.get("min_score")) return `None of ${count(answer.gallery)} memes scores ${asked.get("min_score")} or more: lower the least score.`;
  return `Nothing is left of ${count(answer.gallery)} memes${asked.has("seen") ? ": those left out can be taken in again, above" : ""}.`;
}

/** How the scores came about: the words' weights, QI's and QC's. */
function how(answer) {
  const parts = answer.notes.map((note) => element("p", { class: "note", dir: "auto" }, note));
  if (answer.words.length) parts.push(weightedWords(answer.words));
  if (!answer.memes.length) return parts;
  const alpha = answer.memes[0].alpha;
  const told = ["Above: the share of the memes that score lower."];
  const marks = answer.words.filter(([text]) => MARKS.has(text)).map(([text]) => `${text} is ${MARKS.get(text)}.`);
  if (answer.words.length) told.unshift("The darker a word, the more it counts in QI.", ...marks);
  if (alpha !== null) told.unshift("QI compares with the picture and its emotions, QC with its captions.");
  const picture = asked.has("like") || asked.has("picture");
  const joined = [...["plus", "minus"].flatMap((name) => asked.getAll(name)), asked.get("text"), asked.get("emotion"), picture].filter(Boolean).length > 1;
  if (joined) told.push("QI, QC and their weights are those of the first part. A joint score may exceed 1: it compares memes within this search alone.");
  const taken = asked.has("minus") && !asked.get("text") && !picture && !asked.has("plus");
  const sum = alpha === null ? "" : `${alpha.toFixed(2)} QI + ${(1 - alpha).toFixed(2)} QC`;
  const weights = taken && sum ? `−(${sum})` : sum;
  const further = joined ? `${weights && ", "}joined with what else is asked for` : "";
  const formula = weights || further ? `Score = ${weights}${further}` : "What the numbers are";
  parts.push(element("details", {}, element("summary", {}, formula), element("p", { class: "quiet" }, told.join(" "))));
  return parts;
}

function card(meme) {
  const above = `above ${(Math.floor(meme.below * 1000) / 10).toFixed(1)} %`;
  const branches = [["qi", "QI"], ["qc", "QC"]].filter(([name]) => meme[name] !== null);
  const figures = branches.map(([name, label]) => element("span", { class: name }, `${label} ${meme[name].toFixed(3)}`));
  const said = [`rank ${meme.rank}`, `score ${meme.score.toFixed(3)}`, `${above} of the memes`, ...figures.map((figure) => figure.textContent)];
  const button = element(
    "button",
    { type: "button", class: "meme", "data-id": meme.id, "aria-label": [...said, meme.caption ?? meme.captions[0] ?? meme.text ?? ""].join(", ") },
    element("img", { src: thumbnail(meme.id), alt: "", loading: meme.rank > 12 ? "lazy" : null, draggable: "false" }),
    element(
      "span",
      { class: "ranks" },
      element("span", { class: "rank" }, `${meme.rank} · ${meme.score.toFixed(3)}`, element("small", { title: "the share of the memes that score lower" }, above)),
      ...figures,
    ),
  );
  button.tip = (pinned) => memeTip(meme, pinned ? image(meme.id) : null, said.slice(0, 3).join(" · "));
  const emotions = [...new Set(meme.emotions)];
  const same = meme.duplicates.length;
  return element(
    "li",
    {},
    button,
    emotions.length ? element("div", { class: "chips", role: "group", "aria-label": "emotions" }, ...emotions.map(chip)) : null,
    same ? element("div", { class: "same" }, `${same} nearly the same ${same > 1 ? "are" : "is"} not shown`) : null,
    element(
      "div",
      { class: "actions" },
      action("more-like", "More like this", meme),
      action("copy", "Copy", meme),
      action("leave-out", "Hide", meme, "do not show it again"),
    ),
  );
}

const action = (kind, label, meme, title) =>
  element("button", { type: "button", class: `link ${kind}`, "data-action": kind, title, "aria-label": `${label}: rank ${meme.rank}` }, label);

/** An emotion, which a click prefers; one that the model does not know is only shown. */
function chip(word) {
  if (!data.emotions.includes(word)) return element("span", { class: "chip" }, word);
  const pressed = asked.get("emotion") === word;
  return element("button", { type: "button", class: "chip", "data-emotion": word, "aria-pressed": String(pressed), title: pressed ? "prefer it no more" : "prefer memes with this emotion" }, word);
}

/** What stands there before anything is asked. */
function start() {
  const parts = [
    element("p", { class: "quiet" }, "Type what the meme is for. Or choose, drop or paste a picture, to find memes like it."),
  ];
  if (data.frequent_emotions.length) {
    parts.push(element("h2", {}, "Or an emotion"), element("div", { class: "chips" }, ...data.frequent_emotions.map(chip)));
  }
  return parts;
}

/* ---- pictures: dropped, chosen or pasted; copied ---- */

function searchBy(file) {
  if (file.size > data.limits.upload) {
    hideTip();
    fail(`This picture has ${(file.size / 2 ** 20).toFixed(1)} MiB: at most ${data.limits.upload / 2 ** 20} are taken.`);
    return;
  }
  const key = String(pictures.size + 1);
  pictures.set(key, { file, address: URL.createObjectURL(file) });
  const wanted = without("like");
  wanted.set("picture", key);
  go(wanted, byId("status"));
}

/** Put a meme's picture on the clipboard, as PNG. */
async function copy(button, id) {
  const before = button.textContent;
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": asPng(id) })]);
    button.textContent = "Copied";
    tell("The picture is on the clipboard.");
  } catch {
    button.textContent = "Not copied";
    tell("This browser does not let the page copy: open the meme and copy its picture from the browser's menu.");
  }
  setTimeout(() => (button.textContent = before), 2500);
}

async function asPng(id) {
  const response = await fetch(image(id));
  if (!response.ok) throw new Error("no picture");
  const picture = await createImageBitmap(await response.blob());
  const canvas = element("canvas", { width: picture.width, height: picture.height });
  canvas.getContext("2d").drawImage(picture, 0, 0);
  return new Promise((done, failed) => canvas.toBlob((blob) => (blob ? done(blob) : failed(new Error("too large"))), "image/png"));
}

const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
document.addEventListener("dragover", (event) => {
  if (!hasFile(event)) return;
  event.preventDefault();
  byId("drop").hidden = false;
});
document.addEventListener("dragleave", (event) => event.relatedTarget === null && (byId("drop").hidden = true));
document.addEventListener("drop", (event) => {
  byId("drop").hidden = true;
  if (!hasFile(event)) return;
  event.preventDefault();
  searchBy(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
  if (!file) return;
  event.preventDefault();
  searchBy(file);
});
byId("picture").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (file) searchBy(file);
});

/* ---- what is clicked and typed ---- */

function prefer(word) {
  const wanted = without("emotion");
  if (asked.get("emotion") !== word) wanted.set("emotion", word);
  go(wanted, byId("status"));
}

function moreLike(id) {
  const wanted = new URLSearchParams({ like: id });
  asked.getAll("seen").forEach((other) => wanted.append("seen", other));
  go(wanted, byId("status"));
}

function act(kind, button, id) {
  if (kind === "more-like") moreLike(id);
  else if (kind === "copy") copy(button, id);
  else {
    const wanted = new URLSearchParams(asked);
    wanted.append("seen", id);
    go(wanted, byId("status"));
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.emotion) prefer(button.dataset.emotion);
  else if (button?.dataset.action) act(button.dataset.action, button, button.closest("li").querySelector(".meme").dataset.id);
});
byId("more").addEventListener("click", () => {
  const wanted = new URLSearchParams(asked);
  wanted.set("top", Math.min(Number(asked.get("top") ?? STEP) + STEP, data.limits.top));
  history.replaceState(history.state, "", `/?${wanted}`);
  show({ scroll: scrollY });
});
byId("add").addEventListener("click", () => {
  if (document.querySelectorAll(".part").length >= data.limits.parts) return;
  const made = part("plus", "", "1");
  byId("parts").append(made);
  made.querySelector("input").focus();
});
byId("options").addEventListener("invalid", () => (byId("options").open = true), { capture: true }); // it does not bubble
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  go(ofForm());
});

/** The meme that an arrow key leads to: of the next column, or the nearest one of the next line. */
function neighbour(meme, key) {
  const all = [...document.querySelectorAll(".meme")];
  const place = all.indexOf(meme);
  if (key === "ArrowLeft" || key === "ArrowRight") return all[place + (key === "ArrowRight" ? 1 : -1)];
  const columns = getComputedStyle(byId("memes")).gridTemplateColumns.split(" ").length;
  return all[place + (key === "ArrowDown" ? columns : -columns)];
}

byId("text").addEventListener("keydown", (event) => {
  if (event.key !== "ArrowDown") return;
  event.preventDefault();
  document.querySelector(".meme")?.focus();
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
  const meme = event.target.closest("li")?.querySelector(".meme");
  const key = event.key.toLowerCase(); // with Shift and Caps Lock, too
  if (event.key === "/") byId("text").focus();
  else if (meme && event.key.startsWith("Arrow")) neighbour(meme, event.key)?.focus();
  else if (meme && key === "m") moreLike(meme.dataset.id);
  else if (meme && key === "c") copy(meme.closest("li").querySelector(".copy"), meme.dataset.id);
  else return;
  event.preventDefault();
});

history.scrollRestoration = "manual";
addEventListener("popstate", (event) => show({ scroll: event.state?.scroll ?? 0 }));
show({ scroll: history.state?.scroll ?? 0 });
