// What the page does in the browser by itself. It knows the ids that layout.py gives, and little of Gradio's inside.
(() => {
  const find = (selector) => document.querySelector(selector);
  const isCalm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  // After Enter a phone's keyboard would go on covering the picture. With a mouse the field keeps the focus.
  document.addEventListener("keypress", ({ key, shiftKey, target }) => {
    const asked = key === "Enter" && !shiftKey && target.matches("#prompt textarea");
    if (asked && matchMedia("(pointer: coarse)").matches) target.blur();
  });

  // An example goes into the prompt, which on a phone lies above the screen by then.
  document.addEventListener("click", ({ target }) => {
    if (target.closest("#examples button")) {
      find("#ask").scrollIntoView({ block: "nearest", behavior: isCalm() ? "auto" : "smooth" });
    }
  });

  // A double tap is one wish: a tap on Cancel just after one on Draw, or the other way round, is none.
  let last = { id: "", at: -Infinity };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("#draw, #cancel");
    if (!button || event.detail === 0) return; // 0: by keyboard
    const isHasty = button.id !== last.id && event.timeStamp - last.at < 500;
    if (isHasty) event.stopImmediatePropagation();
    else last = { id: button.id, at: event.timeStamp };
  }, true);

  // A picture that is touched fills the screen, and gives it back when it is touched again, or with Escape.
  const isFullscreen = () => Boolean(find("#result.fullscreen"));
  const turnFullscreen = () => find("#result .icon-button-wrapper > button")?.click();
  document.addEventListener("click", ({ target }) => {
    if (target.closest("#result .image-container > button")) turnFullscreen();
  });
  document.addEventListener("keydown", ({ key }) => {
    if (key === "Escape" && isFullscreen()) turnFullscreen();
  });

  // Gradio's accordion does not say whether it is open.
  const tellMore = () => {
    const button = find("#more > button");
    button?.setAttribute("aria-expanded", button.classList.contains("open"));
  };
  new MutationObserver(tellMore).observe(document, { subtree: true, childList: true, attributeFilter: ["class"] });

  // Draw is disabled while drawing, and Cancel goes away after it: a keyboard's focus on one of them would be lost. It
  // comes back to Draw unless the visitor has moved it meanwhile. It does not go to Cancel by itself, where a second
  // Enter would end what the first one began; Tab leads there.
  let wasOnActions = false;
  const remember = ({ target }) => (wasOnActions = Boolean(target.closest("#actions")));
  document.addEventListener("focusin", remember);
  document.addEventListener("pointerdown", remember);
  new MutationObserver((changes) => {
    if (!changes.some(({ target }) => target.id === "draw" && !target.disabled)) return;
    requestAnimationFrame(() => {
      if (wasOnActions && document.activeElement === document.body) find("#draw").focus({ preventScroll: true });
    });
  }).observe(document, { subtree: true, attributeFilter: ["disabled"] });
})();
