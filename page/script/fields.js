// The fields' values: kept in this tab alone, taken from the page's address, or set by what the visitor touches.

const FIELDS = ["prompt", "negative_prompt", "seed", "randomize_seed", "num_inference_steps", "guidance_scale", "size",
  "num_images_per_prompt", "scheduler"];
const KEPT = "text-to-image-fields";
const USED_ADDRESS = "text-to-image-address";
const TEXT_CHARS = { prompt: 2000, negative_prompt: 2000, scheduler: 100 }; // what comes from outside is cut: a field of megabytes freezes
const UNCHANGED = { __type__: "update" };

// They are read once, before anything on the page changes.
const kept = recall("sessionStorage", KEPT);
const isFreshAddress = /[?&](prompt|negative_prompt|seed|steps|guidance|width|height|scheduler)=/.test(location.search)
  && recall("sessionStorage", USED_ADDRESS) !== location.search;

// What the model can do, as far as the server knows.
const offer = () => JSON.parse(find("#offer [data-offer]")?.dataset.offer ?? '{"limits": {}, "own": {}}');
// A scheduler by the name that the server takes, "" for the model's own; undefined where it offers none of these.
const offeredScheduler = (...names) => {
  const { limits, own } = offer();
  const wanted = names.filter(Boolean).map((name) => name.toLowerCase());
  const name = wanted.map((one) => (limits.schedulers ?? []).find((other) => other.toLowerCase() === one)).find(Boolean);
  return name === own.scheduler && name ? "" : name;
};

let current = null; // what stands in the fields, by name
const named = (values) => Object.fromEntries(FIELDS.map((name, at) => [name, values[at]]));

window.keepFields = (...values) => {
  current = named(values);
  remember("sessionStorage", KEPT, values);
  showPressedStyles();
  return [];
};

window.keptFields = (...values) => {
  if (!isFreshAddress) return kept?.length === FIELDS.length ? kept : values;
  const { fields, bad } = readAddress(new URLSearchParams(location.search));
  if (values.length < FIELDS.length) return [fields.prompt ?? values[0]]; // asked for the prompt alone
  if (bad.length) say(tell("bad_address", { names: bad.join(", ") }));
  remember("sessionStorage", USED_ADDRESS, location.search);
  return Object.values({ ...named(values), ...fields });
};

// What an address such as ?prompt=a+castle&seed=7&width=512&height=384 says, and the names of what it says badly.
const readAddress = (query) => {
  const fields = {};
  const bad = [];
  const { limits } = offer();
  const number = (name, limit, isWhole = true) => {
    const text = query.get(name)?.trim().replace(",", ".");
    if (!text) return null;
    const value = Number(text);
    const { min = 0, max = Infinity, multiple = 0 } = limits[limit] ?? {};
    const isRight = value >= min && value <= max && (!isWhole || Number.isInteger(value)) && !(multiple && value % multiple);
    if (!isRight) bad.push(name);
    return isRight ? value : null;
  };
  for (const [name, most] of Object.entries(TEXT_CHARS)) if (query.get(name)) fields[name] = query.get(name).slice(0, most);
  if (fields.scheduler && limits.schedulers?.length && offeredScheduler(fields.scheduler) == null) {
    bad.push("scheduler");
    delete fields.scheduler;
  }
  const seed = number("seed", "seed");
  if (seed !== null) Object.assign(fields, { seed, randomize_seed: false });
  const steps = number("steps", "num_inference_steps");
  if (steps !== null) fields.num_inference_steps = String(steps);
  const guidance = number("guidance", "guidance_scale", false);
  if (guidance !== null) fields.guidance_scale = String(guidance);
  const [width, height] = [number("width", "width"), number("height", "height")];
  if (width && height) fields.size = `${width}x${height}`;
  else if (width || height) bad.push(width ? "height" : "width");
  return { fields, bad: [...new Set(bad)] };
};

// The address that brings these settings back.
const addressOf = ({ prompt, negative_prompt, seed, num_inference_steps, guidance_scale, size, scheduler }) => {
  const [width, height] = (size || "").split("x");
  const all = { prompt, negative_prompt, seed, steps: num_inference_steps, guidance: guidance_scale, width, height,
    scheduler };
  const query = new URLSearchParams(Object.entries(all).filter(([, value]) => value !== "" && value != null));
  return `${location.origin}${location.pathname}?${query}`;
};

// Puts a picture or values into Gradio's fields: layout.py's hidden button `fill` asks for them, one after the other.
const fills = [];
const fill = ({ picture = UNCHANGED, fields = {} }) => {
  fills.push([picture, ...FIELDS.map((name) => (name in fields ? fields[name] : UNCHANGED))]);
  find("#fill")?.click();
};
window.nextFill = () => fills.shift() ?? Array(FIELDS.length + 1).fill(UNCHANGED);

// The fields' values for the settings of a picture; its seed is kept for the next one unless `isOther`.
const settingsOf = (picture, isOther = false) => ({
  prompt: picture.prompt ?? "",
  negative_prompt: picture.negative_prompt ?? "",
  seed: picture.seed ?? 0,
  randomize_seed: isOther || picture.seed == null,
  num_inference_steps: String(picture.num_inference_steps ?? ""),
  guidance_scale: String(picture.guidance_scale ?? ""),
  size: picture.size ?? "",
  scheduler: picture.scheduler ?? "",
});

// An error that names its parameter is tied to that field, until the field is changed or the sentence goes.
const FIELD_OF = { prompt: "#prompt", negative_prompt: "#negative-prompt", seed: "#seed", num_inference_steps: "#steps",
  guidance_scale: "#guidance", scheduler: "#scheduler", size: "#size-list", width: "#size-list", height: "#size-list", image: "#start-image",
  mask_image: "#mask-image", strength: "#strength" };
const untie = (field) => {
  field.removeAttribute("aria-invalid");
  field.removeAttribute("aria-describedby");
};
let tiedTo = null;
onChange(() => {
  const error = find("#status .error[data-parameter]");
  if (error === tiedTo) return;
  tiedTo = error;
  document.querySelectorAll("#page [aria-invalid=true]").forEach(untie);
  const field = error && find(`${FIELD_OF[error.dataset.parameter]} :is(textarea, input)`);
  field?.setAttribute("aria-invalid", "true");
  field?.setAttribute("aria-describedby", "status");
});
document.addEventListener("input", ({ target }) => untie(target));
