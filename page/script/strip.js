// The strip: this browser's pictures under the large one, and which of them is shown.

const DELETED = "text-to-image-deleted"; // ids that the server may still tell of
const TOLD_FULL = "text-to-image-told-full";
const HAS_STRIP = "text-to-image-has-strip"; // so that its room is kept while the page loads
const THUMB_PX = 192;

let pictures = []; // the newest first
let shown = null; // the picture in the frame: one of the album, or one that was dropped on the page
let shownFile = null; // its file, or a promise of it
const otherTabs = "BroadcastChannel" in window ? new BroadcastChannel("text-to-image-album") : null;
const addresses = new Map(); // id: address of its small picture

document.documentElement.classList.toggle("has-strip", Boolean(recall("localStorage", HAS_STRIP)));

// Pictures are finished: layout.py hands over the records of all that are there, each with its file.
window.keepPicture = (records) => {
  for (const { file, ...record } of JSON.parse(JSON.stringify(records ?? []))) { // Gradio's own is a proxy, which no storage takes
    keeping = keeping.then(() => keep(file, record));
  }
  return [];
};
let keeping = Promise.resolve();
const seen = new Set();

const keep = async (file, record) => {
  if ((recall("localStorage", DELETED) ?? []).includes(record.id)) return;
  const isNews = wasBusy || performance.now() - busyUntil < 3000;
  if (isNews && (record.set?.is_complete ?? !record.set)) announce(record.prompt);
  if (seen.has(record.id)) return;
  seen.add(record.id);
  await strip;
  const before = pictures.find(({ id }) => id === record.id);
  const asked = before ? album.file(before.id) : fetch(file.url).then((answer) => answer.blob());
  const first = partsOf(setOf(record))[0]; // those that were drawn at once stand side by side
  const picture = before ?? { ...record, name: file.orig_name ?? "picture.png", at: first?.at ?? Date.now() };
  if (!record.set) setShown(picture, asked);
  try {
    const blob = await asked;
    if (!before) {
      const thumb = await smallPicture(blob).catch(() => blob);
      await album.put({ ...picture, bytes: blob.size, thumb }, blob);
      await changed();
      await trim();
    }
    if (record.set) await growGrid(picture, blob);
  } catch {
    seen.delete(record.id); // its file did not come: the next news of it may
  }
};

// The first picture of a new set brings the grid; the others come into it, wherever the visitor looks meanwhile.
const growGrid = async (picture, blob) => {
  if (growingSet !== picture.set.id) {
    growingSet = picture.set.id;
    await show(picture, { withSettings: false, set: growingSet });
  } else await drawGrid();
};

const smallPicture = async (blob) => {
  const bitmap = await createImageBitmap(blob);
  const scale = Math.min(1, THUMB_PX / Math.min(bitmap.width, bitmap.height));
  const canvas = make("canvas", { width: Math.round(bitmap.width * scale), height: Math.round(bitmap.height * scale) });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return new Promise((resolve) => canvas.toBlob((small) => resolve(small ?? blob), "image/webp", 0.8));
};

const trim = async () => {
  const old = tooOld(pictures);
  if (!old.length) return;
  await remove(old);
  if (recall("localStorage", TOLD_FULL)) return;
  remember("localStorage", TOLD_FULL, true);
  say(tell("strip_full", { count: ALBUM_MOST }));
};

const remove = async (ids) => {
  remember("localStorage", DELETED, [...ids, ...(recall("localStorage", DELETED) ?? [])].slice(0, 200));
  await album.remove(ids);
  await changed();
};

// Deletes at once; the sentence about it can take that back.
const removeByHand = async (ids) => {
  const gone = [];
  for (const picture of pictures.filter(({ id }) => ids.includes(id))) {
    gone.push({ picture, file: await album.file(picture.id) });
  }
  const at = pictures.findIndex(({ id }) => id === ids[0]);
  await remove(ids);
  if (shown && ids.includes(shown.id)) {
    const next = pictures[Math.min(at, pictures.length - 1)];
    if (next) show(next, { withSettings: false, set: openSet && setOf(next) === openSet ? openSet : null });
    else setShown(null, null), fill({ picture: null });
  }
  say(tell(ids.length === 1 ? "deleted_one" : "deleted_all", { count: ids.length }), async () => {
    remember("localStorage", DELETED, (recall("localStorage", DELETED) ?? []).filter((id) => !ids.includes(id)));
    for (const { picture, file } of gone) await album.put(picture, file);
    await changed();
    if (!shown && pictures.length) show(pictures[0], { withSettings: false });
  });
};

const changed = async () => {
  await drawStrip();
  otherTabs?.postMessage("changed");
};
otherTabs?.addEventListener("message", () => drawStrip());

// Shows a picture of the album, with its settings in the fields. `set`: in the grid of that set, if it is open.
// Of two that are asked for in quick succession the later one is shown, whichever is found first.
let wanted = null;
const show = async (picture, { withSettings = true, set = null } = {}) => {
  wanted = picture;
  const file = await album.file(picture.id);
  if (wanted !== picture) return;
  wanted = null;
  if (!file) return drawStrip(); // deleted in another tab
  setShown(picture, file, set);
  fill({ picture: pictureValue(picture, file), fields: withSettings ? settingsOf(picture) : {} });
};

// What Gradio's picture takes: a file in this browser, by an address that lasts as long as it is shown.
let lastAddress = "";
const pictureValue = ({ name, prompt }, file) => {
  const before = lastAddress;
  setTimeout(() => URL.revokeObjectURL(before), 5000);
  lastAddress = URL.createObjectURL(file);
  const value = { path: lastAddress, url: lastAddress, orig_name: name, mime_type: file.type, size: file.size,
    meta: { _type: "gradio.FileData" } };
  return { __type__: "update", value, alt_text: prompt };
};

const setShown = (picture, file, set = null) => {
  [shown, shownFile, openSet] = [picture, file, set];
  find("#page")?.classList.toggle("looking-back", isBusy() && !(set && set === growingSet));
  showCaption();
  markShown();
  drawGrid();
};

// After a reload, and where the server has nothing to show, the newest picture is there again.
window.showLast = async () => {
  await strip;
  if (shown || !pictures.length || find("#result img")) return;
  show(pictures[0], { withSettings: false, set: setOf(pictures[0]) });
};

// The next older (1) or newer (-1) picture.
const leaf = (by) => {
  const at = pictures.findIndex(({ id }) => id === (wanted ?? shown)?.id);
  const next = pictures[at + by];
  const set = openSet && setOf(next) === openSet ? openSet : null; // within a grid it stays open
  if (next && !(at < 0 && by < 0)) show(next, { set });
};

const drawStrip = async () => {
  pictures = await album.all();
  const place = find("#strip .pictures");
  if (!place) return;
  for (const [id, address] of addresses) {
    if (!pictures.some((picture) => picture.id === id)) URL.revokeObjectURL(address), addresses.delete(id);
  }
  const drawn = new Map([...place.children].map((item) => [item.dataset.id, item]));
  place.replaceChildren(...pictures.map((picture) => drawn.get(picture.id) ?? stripItem(picture)));
  find("#strip").classList.toggle("is-empty", !pictures.length);
  find("#strip .count").textContent = pictures.length;
  const isKept = await album.isKept();
  find("#strip .place").textContent = tell(isKept ? "strip_kept" : "strip_not_kept");
  document.documentElement.classList.toggle("has-strip", pictures.length > 0 || !isKept);
  remember("localStorage", HAS_STRIP, pictures.length > 0);
  markShown();
  drawGrid();
};

const stripItem = (picture) => {
  if (!addresses.has(picture.id)) addresses.set(picture.id, URL.createObjectURL(picture.thumb));
  const image = make("img", { src: addresses.get(picture.id), alt: "", draggable: "false" });
  const one = make("button", { type: "button", class: "one", title: picture.prompt }, image);
  one.setAttribute("aria-label", tell("strip_one", { prompt: picture.prompt }));
  const bin = make("button", { type: "button", class: "bin", title: tell("delete_one") }, "×");
  bin.setAttribute("aria-label", tell("delete_this", { prompt: picture.prompt }));
  return make("li", { "data-id": picture.id }, one, bin);
};

const markShown = () => {
  for (const item of document.querySelectorAll("#strip li")) {
    const isShown = item.dataset.id === shown?.id;
    item.querySelector(".one").setAttribute("aria-current", isShown);
    const list = item.parentElement;
    if (!isShown) continue;
    const [from, to] = [item.offsetLeft - list.offsetLeft, item.offsetLeft - list.offsetLeft + item.offsetWidth];
    if (from < list.scrollLeft) list.scrollLeft = from;
    else if (to > list.scrollLeft + list.clientWidth) list.scrollLeft = to - list.clientWidth;
  }
};

document.addEventListener("click", async ({ target }) => {
  const id = target.closest("#strip li")?.dataset.id;
  const picture = pictures.find((one) => one.id === id);
  if (picture && target.closest(".one")) {
    await show(picture);
    find("#result").scrollIntoView({ block: "nearest", behavior: isCalm() ? "auto" : "smooth" });
  } else if (picture) removeByHand([id]);
  else if (target.closest("#strip .clear")) removeByHand(pictures.map((one) => one.id));
  else if (target.closest("#strip .download-all")) downloadAll();
});

const downloadAll = async () => {
  const files = [];
  for (const { id, name, at } of pictures) files.push({ name, at, blob: await album.file(id) });
  download(await zip(files.filter(({ blob }) => blob)), "pictures.zip");
};

const download = (blob, name) => {
  const address = URL.createObjectURL(blob);
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
};

// The strip is there once Gradio has mounted its place.
const strip = new Promise((resolve) => {
  const look = () => (find("#strip .pictures") ? resolve(drawStrip()) : requestAnimationFrame(look));
  look();
});
