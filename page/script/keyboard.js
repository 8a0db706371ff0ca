// The keyboard. Enter draws by Gradio's own; Shift+Enter begins a new line.

document.addEventListener("keydown", (event) => {
  const { key, ctrlKey, metaKey, altKey, shiftKey, target } = event;
  if (key === "Enter" && (ctrlKey || metaKey)) {
    event.preventDefault();
    event.stopPropagation();
    find("#draw")?.click();
  } else if (key === "Escape" && !event.defaultPrevented) {
    if (isFullscreen()) turnFullscreen();
    else if (!target.closest("[role=listbox], [aria-expanded=true]")) find("#cancel")?.click();
  } else if (["ArrowLeft", "ArrowRight"].includes(key) && !(ctrlKey || metaKey || altKey || shiftKey)) {
    if (isTyping(target) || target.closest("[role=listbox], [role=radiogroup]")) return;
    leaf(key === "ArrowRight" ? 1 : -1);
  } else if (key === "Delete" && target.closest("#strip li")) {
    removeByHand([target.closest("#strip li").dataset.id]);
  }
}, true);

// With a mouse and a keyboard, one may type at once. A phone's keyboard would cover the page.
const whenPromptIsThere = () => {
  const field = find("#prompt textarea");
  if (!field) return void requestAnimationFrame(whenPromptIsThere);
  const isFree = document.activeElement === document.body || !document.activeElement;
  if (isFree && matchMedia("(hover: hover) and (pointer: fine)").matches) field.focus({ preventScroll: true });
};
whenPromptIsThere();

// What Gradio leaves out for screen readers: whether the accordion is open, what an empty picture is, and that the icons
// beside the footer's words say nothing more.
onChange(() => {
  const button = find("#more > button");
  button?.setAttribute("aria-expanded", button.classList.contains("open"));
  find("#result .empty")?.setAttribute("role", "img");
  for (const icon of document.querySelectorAll("footer img:not([alt=''])")) icon.alt = "";
});

// Gradio makes every radio button a group of its own, so that Tab stops at each. Here it stops at the chosen one, and the
// arrows go on from there, as in any radio group.
const RADIO_GROUPS = ["#count", "#size"];
const radiosOf = (group) => [...document.querySelectorAll(`${group} input[type=radio]`)];
onChange(() => {
  for (const group of RADIO_GROUPS) {
    const radios = radiosOf(group);
    const stop = radios.find(({ checked }) => checked) ?? radios[0];
    for (const radio of radios) radio.tabIndex = radio === stop ? 0 : -1;
  }
});
document.addEventListener("change", ({ target }) => {
  const group = RADIO_GROUPS.find((one) => target.closest(one));
  if (group) for (const radio of radiosOf(group)) radio.tabIndex = radio === target ? 0 : -1;
});
document.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const group = step && RADIO_GROUPS.find((one) => event.target.closest(`${one} label`));
  if (!group || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  const radios = radiosOf(group);
  const next = radios.at((radios.indexOf(event.target) + step) % radios.length);
  next.focus();
  next.click();
});

// Draw is disabled while drawing, and Cancel goes away after it: a keyboard's focus on one of them would be lost. It
// comes back to Draw unless the visitor has moved it meanwhile. It does not go to Cancel by itself, where a second
// Enter would end what the first one began; Tab leads there.
let wasOnActions = false;
const noteFocus = ({ target }) => (wasOnActions = Boolean(target.closest("#actions")));
document.addEventListener("focusin", noteFocus);
document.addEventListener("pointerdown", noteFocus);
new MutationObserver((changes) => {
  if (!changes.some(({ target }) => target.id === "draw" && !target.disabled)) return;
  requestAnimationFrame(() => {
    if (wasOnActions && document.activeElement === document.body) find("#draw").focus({ preventScroll: true });
  });
}).observe(document, { subtree: true, attributeFilter: ["disabled"] });
