// While something is awaited, something moves: seconds, a bar, the time that is left; and afterwards the tab's title
// tells those who are elsewhere.

const SILENT_MS = 3000;
let wasBusy = false;
let busyUntil = -Infinity; // by performance.now()
let drawing = null; // { step, steps, at, firstStep, firstAt } by performance.now(), once there is a step

const lookAtProgress = () => {
  if (isBusy() !== wasBusy) {
    wasBusy = isBusy();
    drawing = null;
    if (!wasBusy) busyUntil = performance.now();
    if (!wasBusy && document.hidden && find("#status .error")) setTitle("⚠");
    else if (wasBusy) setTitle("…");
    else if (!isNewsUnseen) setTitle("");
    if (!wasBusy) find("#page")?.classList.remove("looking-back");
    drawGrid();
  }
  const told = find("#status [data-step]")?.dataset;
  const now = performance.now();
  if (!wasBusy || !told) drawing = null;
  else if (drawing?.step !== Number(told.step)) {
    const step = Number(told.step);
    const isFirst = !drawing || step < drawing.step;
    drawing = { step, steps: Number(told.steps), at: now, firstStep: isFirst ? step : drawing.firstStep,
      firstAt: isFirst ? now : drawing.firstAt };
  }
  showProgress();
};

const showProgress = () => {
  const bar = find("#progress [role=progressbar]");
  if (!bar) return;
  bar.parentElement.hidden = !wasBusy;
  bar.classList.toggle("is-waiting", !drawing);
  if (!wasBusy) return;
  const part = drawing ? drawing.step / drawing.steps : 0;
  bar.firstElementChild.style.transform = drawing ? `scaleX(${part})` : "";
  if (drawing) bar.setAttribute("aria-valuenow", Math.round(100 * part));
  else bar.removeAttribute("aria-valuenow");
  const [left, words] = [find("#progress .left"), drawing ? timeLeft(drawing) : ""];
  if (left.textContent !== words) left.textContent = words; // each change calls this again
};

// Honest: from what the steps took so far, and only once there is something to tell it from.
const timeLeft = ({ step, steps, at, firstStep, firstAt }) => {
  const silent = performance.now() - at;
  if (silent > SILENT_MS) return tell("no_step", { seconds: Math.floor(silent / 1000) });
  if (step === steps) return tell("almost");
  if (step === firstStep) return "";
  const left = ((at - firstAt) / (step - firstStep)) * (steps - step) - silent;
  return left < 1000 ? tell("almost") : tell("time_left", { seconds: Math.round(left / 1000) });
};

// The server tells the seconds of a wait; between its news, and without any, they are counted here.
let counted = "";
const countSeconds = () => {
  showProgress();
  const seconds = find("#status .seconds");
  if (!wasBusy || !seconds) return (counted = "");
  if (seconds.textContent === counted) seconds.textContent = counted.replace(/\d+/, (number) => Number(number) + 1);
  counted = seconds.textContent;
};
onChange(lookAtProgress);
setInterval(countSeconds, 1000);

// The title and the icon of the tab.
const ICON_READY = "data:image/svg+xml," + encodeURIComponent(
  '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" fill="#4f46e5"/>' +
  '<path d="m8 17 6 6 11-14" fill="none" stroke="#fff" stroke-width="4" stroke-linecap="round"/></svg>');
let isNewsUnseen = false;
let ownTitle = "";
const ownIcons = new Map();
const setTitle = (mark) => {
  ownTitle ||= document.title;
  document.title = mark ? `${mark} ${ownTitle}` : ownTitle;
};
const setIcon = (isReady) => {
  let icons = [...document.querySelectorAll("link[rel~=icon]")];
  if (!icons.length && isReady) document.head.append((icons = [make("link", { rel: "icon" })])[0]);
  for (const icon of icons) {
    if (!ownIcons.has(icon)) ownIcons.set(icon, icon.getAttribute("href"));
    if (isReady) icon.href = ICON_READY;
    else if (ownIcons.get(icon) !== null) icon.setAttribute("href", ownIcons.get(icon));
    else icon.remove();
  }
};

// A picture has just been finished, and the visitor may be elsewhere.
const announce = (prompt) => {
  if (recall("localStorage", TELL)) ring(prompt);
  if (!document.hidden) return;
  isNewsUnseen = true;
  setTitle(`✓ ${tell("ready")}:`);
  setIcon(true);
};
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  isNewsUnseen = false;
  setTitle(isBusy() ? "…" : "");
  setIcon(false);
});

// A sound, and a notification for those who are elsewhere: only for those who asked for it, and both at best.
const TELL = "text-to-image-tell";
window.tellWanted = () => Boolean(recall("localStorage", TELL));
window.wantTelling = (isWanted) => {
  remember("localStorage", TELL, isWanted);
  if (!isWanted) return [];
  beep(); // so that the visitor knows it; and a browser lets sound through once a click has begun one
  if ("Notification" in window && Notification.permission === "default") Notification.requestPermission();
  return [];
};
let sound = null;
const beep = () => {
  try {
    sound ??= new AudioContext();
    const [tone, volume] = [sound.createOscillator(), sound.createGain()];
    tone.connect(volume).connect(sound.destination);
    tone.frequency.setValueAtTime(660, sound.currentTime);
    tone.frequency.setValueAtTime(880, sound.currentTime + 0.12);
    volume.gain.setValueAtTime(0.08, sound.currentTime);
    volume.gain.exponentialRampToValueAtTime(0.0001, sound.currentTime + 0.4);
    tone.start();
    tone.stop(sound.currentTime + 0.4);
  } catch {} // a machine without sound
};
const ring = (prompt) => {
  beep();
  if (!document.hidden || !("Notification" in window) || Notification.permission !== "granted") return;
  try {
    const note = new Notification(tell("ready"), { body: prompt, tag: "text-to-image" });
    note.addEventListener("click", () => (window.focus(), note.close()));
  } catch {} // Android's Chrome lets service workers alone do that
};
