// A picture that is dropped on the page or pasted gives back its prompt and settings. It is read here, and goes nowhere.

const FILE_BYTES = 50_000_000; // more than a picture has, and no more than a phone reads at once
const TEXT_BYTES = 100_000;

// The text in a PNG: tEXt, zTXt and iTXt. Source: PNG specification, third edition, 11.3.3.
const pngTexts = async (blob) => {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const view = new DataView(bytes.buffer);
  const texts = {};
  if (bytes.length < 8 || view.getUint32(0) !== 0x89504e47) return texts;
  for (let at = 8; at + 12 <= bytes.length; ) {
    const [length, type] = [view.getUint32(at), String.fromCharCode(...bytes.subarray(at + 4, at + 8))];
    const chunk = bytes.subarray(at + 8, at + 8 + Math.min(length, TEXT_BYTES));
    at += length + 12;
    if (!["tEXt", "zTXt", "iTXt"].includes(type)) continue;
    const end = chunk.indexOf(0);
    const key = latin1(chunk.subarray(0, end));
    if (type === "tEXt") texts[key] = latin1(chunk.subarray(end + 1));
    else if (type === "zTXt") texts[key] = latin1(await inflated(chunk.subarray(end + 2)));
    else {
      const translated = chunk.indexOf(0, chunk.indexOf(0, end + 3) + 1); // after the language and the translated key
      const text = chunk.subarray(translated + 1);
      texts[key] = new TextDecoder().decode(chunk[end + 1] ? await inflated(text) : text);
    }
  }
  return texts;
};
const latin1 = (bytes) => new TextDecoder("latin1").decode(bytes);
// The first TEXT_BYTES of it: a few kilobytes may unfold to gigabytes.
const inflated = async (bytes) => {
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  const parts = [];
  for (let size = 0; size < TEXT_BYTES; size += parts.at(-1).length) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
  }
  reader.cancel().catch(() => {});
  return new Uint8Array(await new Blob(parts).slice(0, TEXT_BYTES).arrayBuffer());
};

// The settings in the layout that AUTOMATIC1111's web UI began and most programs write:
// the prompt, "Negative prompt: …", and last a line "Steps: 20, Sampler: …, CFG scale: 7, Seed: 1, Size: 512x512, …".
const settingsInText = (text) => {
  const lines = text.split("\n");
  const isLast = /^Steps: \d+/.test(lines.at(-1)) || /(^|, )Seed: \d+(,|$)/.test(lines.at(-1));
  const values = isLast ? lines.pop() : "";
  const value = (name) => values.match(new RegExp(`(?:^|, )${name}: ([^,]+)`))?.[1].trim();
  const negative = lines.findIndex((line) => line.startsWith("Negative prompt: "));
  const negatives = negative < 0 ? [] : lines.splice(negative);
  return {
    prompt: lines.join("\n").trim(),
    negative_prompt: negatives.join("\n").replace("Negative prompt: ", "").trim(),
    seed: value("Seed"),
    num_inference_steps: value("Steps"),
    guidance_scale: value("CFG scale"),
    size: value("Size"),
    model: value("Model"),
    sampler: value("Sampler"),
    schedule: value("Schedule type"),
  };
};

const takeFile = async (file) => {
  const texts = file.size > FILE_BYTES ? {} : await pngTexts(file).catch(() => ({}));
  const read = texts.parameters ? settingsInText(texts.parameters) : {};
  const settings = Object.fromEntries(Object.entries({
    prompt: texts.prompt, negative_prompt: texts.negative_prompt, seed: texts.seed,
    num_inference_steps: texts.num_inference_steps, guidance_scale: texts.guidance_scale, model: texts.model, ...read,
  }).filter(([, value]) => value != null && value !== ""));
  for (const name of Object.keys(settings)) settings[name] = settings[name].slice(0, TEXT_CHARS[name] ?? 100);
  if (!settings.prompt) return say(tell("dropped_nothing"));
  // Ours tells diffusers' name as well; others write "DPM++ 2M Karras", or in two parts.
  const { sampler, schedule } = settings;
  settings.scheduler = offeredScheduler(schedule && `${sampler} ${schedule}`, texts.scheduler, sampler);
  const seed = Number(settings.seed);
  settings.seed = settings.seed && Number.isSafeInteger(seed) && seed >= 0 ? seed : null;
  const bitmap = await createImageBitmap(file).catch(() => null);
  const picture = { ...settings, id: "dropped", name: file.name || "picture.png", width: bitmap?.width, height: bitmap?.height,
    steps: settings.num_inference_steps };
  setShown(picture, file);
  fill({ picture: bitmap ? pictureValue(picture, file) : UNCHANGED, fields: settingsOf(picture) });
  say(tell("dropped_read"));
};

const pictureIn = (transfer) => [...(transfer?.files ?? [])].find(({ type }) => type.startsWith("image/"));
document.addEventListener("dragover", (event) => {
  if (event.dataTransfer?.types.includes("Files")) event.preventDefault();
});
// The fields for a picture to start from take what is dropped on them themselves.
document.addEventListener("drop", (event) => {
  if (!event.dataTransfer?.files.length || event.target.closest?.("#start")) return;
  event.preventDefault(); // else the browser would leave the page for the file
  const file = pictureIn(event.dataTransfer);
  if (file) takeFile(file);
}, true);
document.addEventListener("paste", (event) => {
  const file = pictureIn(event.clipboardData);
  if (!file) return;
  event.preventDefault();
  takeFile(file);
}, true);
document.addEventListener("change", ({ target }) => {
  if (!target.matches("#open-picture input")) return;
  if (target.files[0]) takeFile(target.files[0]);
  target.value = "";
}, true);
