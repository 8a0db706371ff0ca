// Several pictures that were drawn at once: a grid in the frame. One of them is the shown one, on which Save and the
// others act; a touch opens it on the whole screen. Each is in the strip as well, with its own seed.

let openSet = null; // the id of the set that the frame shows as a grid; null: one picture fills the frame
let growingSet = null; // the one that is being drawn
const gridAddresses = new Map(); // id: address of a picture in the grid

const setOf = (picture) => picture?.set?.id ?? null;
const partsOf = (id) => (id ? pictures.filter((one) => setOf(one) === id) : []);
const isGrid = () => partsOf(openSet).length > (openSet === growingSet && isBusy() ? 0 : 1);

const drawGrid = async () => {
  const place = find("#grid .pictures-at-once");
  if (!place) return;
  const parts = isGrid() ? partsOf(openSet) : [];
  for (const { id } of parts) {
    const file = gridAddresses.has(id) ? null : await album.file(id);
    if (file && !gridAddresses.has(id)) gridAddresses.set(id, URL.createObjectURL(file));
  }
  for (const [id, address] of gridAddresses) {
    if (!parts.some((one) => one.id === id)) URL.revokeObjectURL(address), gridAddresses.delete(id);
  }
  const isGrowing = parts.length > 0 && openSet === growingSet && isBusy();
  const count = isGrowing ? parts[0].set.of : parts.length;
  const isWide = count === 2 && parts[0].width > parts[0].height;
  const drawn = new Map([...place.querySelectorAll(".tile")].map((tile) => [tile.dataset.id, tile]));
  const tiles = parts.map((one, at) => {
    const tile = drawn.get(one.id) ?? tileOf(one);
    const number = isGrowing ? one.set.place : at; // while the others are drawn, each has its own place
    const columns = isWide ? 1 : 2;
    tile.style.gridArea = `${Math.floor(number / columns) + 1} / ${(number % columns) + 1}`;
    return tile;
  });
  place.replaceChildren(...(tiles.length ? tiles : wayBack()));
  place.className = `pictures-at-once ${tiles.length ? `tiles of-${count}` : ""} ${isWide ? "is-wide" : ""}`;
  find("#frame").classList.toggle("is-grid", tiles.length > 0);
  find("#frame").classList.toggle("is-growing", isGrowing);
  markTile();
};

const tileOf = ({ id, prompt, seed, set }) => {
  const image = make("img", { src: gridAddresses.get(id) ?? "", alt: "", draggable: "false" });
  const tile = make("button", { type: "button", class: "tile", "data-id": id }, image);
  tile.setAttribute("aria-label", tell("open_one", { number: set.place + 1, count: set.of, prompt }));
  tile.title = seed == null ? prompt : tell("caption_seed", { seed });
  return tile;
};

// From one picture of a set, back to all of it.
const wayBack = () => {
  const count = partsOf(setOf(shown)).length;
  return count > 1 ? [make("button", { type: "button", class: "all-at-once" }, tell("all_at_once", { count }))] : [];
};

const markTile = () => {
  for (const tile of document.querySelectorAll("#grid .tile")) {
    const isShown = tile.dataset.id === shown?.id;
    tile.setAttribute("aria-current", isShown);
    if (isShown && document.activeElement?.matches("#grid .tile")) tile.focus({ preventScroll: true });
  }
};

const openGrid = (id) => {
  openSet = id;
  return drawGrid();
};

// The picture has to be in Gradio's place first: else the one before would flash up.
const openLarge = (address, tries = 60) => {
  if (find("#result img")?.src === address || !tries) return turnFullscreen();
  requestAnimationFrame(() => openLarge(address, tries - 1));
};

document.addEventListener("click", async ({ target }) => {
  const tile = target.closest("#grid .tile");
  if (tile) {
    await show(pictures.find(({ id }) => id === tile.dataset.id), { set: openSet });
    openLarge(lastAddress);
  } else if (target.closest("#grid .all-at-once")) openGrid(setOf(shown));
});
