// What the other scripts share. They are one script in the end, in the order of `page/script.py`; they know the ids that
// layout.py gives, and little of Gradio's inside.
const find = (selector) => document.querySelector(selector);
const isCalm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
// Gradio mounts Cancel while there is something to cancel; what another visitor draws can be watched alone.
const isBusy = () => Boolean(find("#cancel, #status .watched"));
const isTyping = (element) => element.matches("textarea, select, [contenteditable], input:not([type=checkbox])");

// A sentence of words/*.json; `values` go where it has {name}. `tellCount`: one for a number of things, at {count}.
const { language, words } = window.pageWords;
const tell = (name, values = {}) => words[name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
const tellCount = (name, count) => tell(count === 1 ? `${name}_one` : name, { count });
document.documentElement.style.setProperty("--nothing-yet", JSON.stringify(tell("nothing_yet"))); // for page.css
// The visitor's own way to write numbers and times, where it is of the page's language.
const locale = [navigator.languages.find((one) => one.split("-")[0] === language.split("-")[0]) ?? language];

const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};

// A private window may refuse every storage, already when it is named. Gradio would not even begin then: it gets one that
// lasts as long as the page is open.
const heldHere = () => {
  const held = new Map();
  return {
    getItem: (key) => held.get(String(key)) ?? null,
    setItem: (key, value) => void held.set(String(key), String(value)),
    removeItem: (key) => void held.delete(String(key)),
    clear: () => held.clear(),
    key: (at) => [...held.keys()][at] ?? null,
    get length() {
      return held.size;
    },
  };
};
for (const name of ["localStorage", "sessionStorage"]) {
  try {
    window[name].getItem("");
  } catch {
    try {
      Object.defineProperty(window, name, { configurable: true, value: heldHere() });
    } catch {}
  }
}
const recall = (storage, key) => {
  try {
    return JSON.parse(window[storage].getItem(key));
  } catch {
    return null;
  }
};
const remember = (storage, key, value) => {
  try {
    window[storage].setItem(key, JSON.stringify(value));
  } catch {}
};

// One line at the bottom of the screen, read out as it comes. `undo`: what its button takes back.
let hiding = 0;
const say = (sentence, undo) => {
  const line = find("#said p");
  if (!line) return;
  line.replaceChildren(sentence);
  if (undo) {
    const button = make("button", { type: "button" }, tell("undo"));
    button.addEventListener("click", () => (line.replaceChildren(), undo()));
    line.append(button);
  }
  clearTimeout(hiding);
  hiding = setTimeout(() => line.replaceChildren(), undo ? 12_000 : 7_000);
};

// Calls back once for all that has changed on the page until the next frame, and a little later in a hidden tab. What the
// callbacks change themselves is no news.
const watchers = [];
const onChange = (callback) => void watchers.push(callback);
let isAsked = false;
const callWatchers = () => {
  if (!isAsked) return;
  isAsked = false;
  for (const callback of watchers) callback();
  changes.takeRecords();
};
const changes = new MutationObserver(() => {
  if (isAsked) return;
  isAsked = true;
  requestAnimationFrame(callWatchers);
  setTimeout(callWatchers, 200);
});
changes.observe(document, { subtree: true, childList: true, characterData: true, attributeFilter: ["class", "disabled"] });
