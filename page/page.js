// What the page does in the browser by itself. It knows the ids that layout.py gives, and little of Gradio's inside.
(() => {
  const find = (selector) => document.querySelector(selector);
  const isCalm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  // The fields' values, kept in this tab alone. They are read once, before anything on the page changes.
  const KEY = "text-to-image-fields";
  const kept = JSON.parse(sessionStorage.getItem(KEY));
  window.keepFields = (...values) => (sessionStorage.setItem(KEY, JSON.stringify(values)), []);
  window.keptFields = (...values) => kept ?? values;

  // While the page's server does not answer, the last sentence would look as if all were well. When it is back, a drawing
  // whose news broke off is looked for anew, by a reload: nothing else would end its "Drawing…".
  let wasAway = false;
  const lookForServer = async () => {
    if (document.hidden || !find("#offline p")) return;
    const { root, api_prefix } = window.gradio_config;
    const asked = fetch(`${root}${api_prefix}/app_id`, { cache: "no-store", signal: AbortSignal.timeout(8000) });
    const answered = await asked.then(({ ok }) => ok, () => false);
    find("#offline p").hidden = answered;
    const brokeOff = wasAway || find('#status [data-testid="status-tracker"] .error');
    if (answered && brokeOff && find("#cancel")) location.reload();
    wasAway = !answered;
  };
  setInterval(lookForServer, 10_000);
  for (const event of ["online", "offline"]) addEventListener(event, lookForServer);
  document.addEventListener("visibilitychange", lookForServer);

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
