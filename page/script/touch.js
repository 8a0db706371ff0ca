// Touch and mouse: where the screen goes, what a double tap means, and the picture on the whole screen.

// After Enter a phone's keyboard would go on covering the picture. With a mouse the field keeps the focus.
const isPhone = () => matchMedia("(pointer: coarse)").matches;
document.addEventListener("keypress", ({ key, shiftKey, target }) => {
  const asked = key === "Enter" && !shiftKey && target.matches("#prompt textarea");
  if (asked && isPhone()) target.blur();
});

// An example goes into the prompt, which on a phone lies above the screen by then.
document.addEventListener("click", ({ target }) => {
  if (target.closest("#examples button")) {
    find("#ask").scrollIntoView({ block: "nearest", behavior: isCalm() ? "auto" : "smooth" });
  }
});

// A double tap is one wish: a tap on Cancel just after one on Draw, or the other way round, is none.
let lastTap = { id: "", at: -Infinity };
document.addEventListener("click", (event) => {
  const button = event.target.closest("#draw, #cancel");
  if (!button || event.detail === 0) return; // 0: by keyboard
  const isHasty = button.id !== lastTap.id && event.timeStamp - lastTap.at < 500;
  if (isHasty) event.stopImmediatePropagation();
  else lastTap = { id: button.id, at: event.timeStamp };
}, true);

// A picture that is touched fills the screen, and gives it back when it is touched again, or with Escape.
const isFullscreen = () => Boolean(find("#result.fullscreen"));
const turnFullscreen = () => find("#result .icon-button-wrapper > button")?.click();
document.addEventListener("click", ({ target }) => {
  if (target.closest("#result .image-container > button")) turnFullscreen();
});

// There, a finger that goes sideways leafs through the strip, and one that goes up or down closes.
let touched = null;
document.addEventListener("touchstart", ({ touches }) => {
  touched = isFullscreen() && touches.length === 1 ? { x: touches[0].clientX, y: touches[0].clientY } : null;
}, { passive: true });
document.addEventListener("touchend", ({ changedTouches }) => {
  if (!touched) return;
  const [x, y] = [changedTouches[0].clientX - touched.x, changedTouches[0].clientY - touched.y];
  if (Math.abs(y) > 80 && Math.abs(y) > Math.abs(x)) turnFullscreen();
  else if (Math.abs(x) > 50) leaf(x < 0 ? 1 : -1);
});
