"use strict";

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

const MARKS = new Map([
  ["<start>", "the token that begins every text"],
  ["<end>", "the token that ends every text; in CLIP it stands for the whole sentence"],
]);

/** WTI's words, shaded by their weights; the darkest shade is the largest weight of the query. */
function weightedWords(words) {
  const largest = Math.max(...words.map(([, weight]) => weight));
  const pieces = words.map(([text, weight]) => {
    const mark = MARKS.get(text);
    const title = [`weight ${weight.toFixed(3)}`, mark].filter(Boolean).join(": ");
    const piece = element("span", { title, "data-weight": weight.toFixed(3), class: mark ? "mark" : null }, text.trimEnd());
    piece.style.setProperty("--share", (0.6 * weight) / largest);
    return [piece, mark || text.endsWith(" ") ? " " : ""];
  });
  return element("p", { class: "words", dir: "auto" }, ...pieces.flat());
}
