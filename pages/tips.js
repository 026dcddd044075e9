/* ---- tips: of memes and of charts; under the mouse, on focus, or kept by a click ---- */

const tip = byId("tip");
let tipOwner = null;

function memeTip(meme, source, ranks) {
  const list = element("dl");
  const add = (name, ...texts) => texts.length && list.append(element("dt", {}, name), ...texts.map((text) => element("dd", { dir: "auto" }, text)));
  add(ranks, meme.id);
  add("Captions", ...(meme.captions.length ? meme.captions : ["none"]));
  add("Emotions", meme.emotions.length ? [...new Set(meme.emotions)].join(", ") : "none");
  if (meme.text.trim()) add("Text on the image", meme.text);
  return source ? [element("img", { src: source, alt: "" }), list] : [list];
}

const withTip = (target) => (target instanceof Element ? target.closest(".meme, .spot") : null);

function showTip(owner, pinned) {
  hideTip();
  tipOwner = owner;
  tip.replaceChildren(...(owner.tip ? owner.tip(pinned) : [owner.dataset.tip]));
  tip.classList.toggle("of-meme", Boolean(owner.tip));
  tip.classList.toggle("pinned", pinned);
  tip.hidden = false;
  tip.scrollTop = 0;
  owner.setAttribute("aria-describedby", "tip");
  owner.classList.add("shown");
  placeTip(owner);
  for (const image of tip.querySelectorAll("img")) image.addEventListener("load", () => owner === tipOwner && placeTip(owner));
}

/** Below its owner, or above it where there is more room; over it where neither has enough. */
function placeTip(owner) {
  const place = owner.getBoundingClientRect();
  const width = document.documentElement.clientWidth;
  const left = Math.min(Math.max(8, place.left), width - tip.offsetWidth - 8);
  const below = place.bottom + 6 + tip.offsetHeight < innerHeight || place.top < tip.offsetHeight + 6;
  tip.style.setProperty("--left", `${left + scrollX}px`);
  const wanted = below ? place.bottom + 6 : place.top - 6 - tip.offsetHeight;
  const top = Math.max(8, Math.min(wanted, innerHeight - tip.offsetHeight - 8));
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
document.addEventListener("click", (event) => {
  const owner = withTip(event.target);
  if (!owner) {
    if (!tip.contains(event.target)) hideTip();
  } else if (owner === tipOwner && isPinned()) hideTip();
  else showTip(owner, true);
});
