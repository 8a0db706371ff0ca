// What can be done with the picture in the frame, and the line that tells how it was made.

const showCaption = () => {
  const place = find("#caption .how");
  if (!place) return;
  find("#page").classList.toggle("has-picture", Boolean(shown));
  for (const [id, name] of [["again", "again_hint"], ["same-seed", "same_seed_hint"]]) find(`#${id}`).title = tell(name);
  showLarger();
  if (!shown) return place.replaceChildren(make("span", {}, tell("caption_empty")));
  const { prompt, width, height, seed, steps, model, seconds, machine, receipt, scheduler } = shown;
  const parts = [
    width && `${width} × ${height}`,
    seed != null && tell("caption_seed", { seed }),
    steps && tellCount("caption_steps", steps),
    scheduler,
    model?.split("/").at(-1),
    seconds && tell("caption_seconds", { seconds: seconds.toLocaleString(locale, { maximumFractionDigits: 1 }) }),
    machine && tell("caption_machine", { machine }),
  ];
  place.replaceChildren(make("span", {}, parts.filter(Boolean).join(" · ")), receiptOf(prompt, receipt ?? {}));
};

// On demand, the prompt, which stands in its field until the visitor writes another, where the time went and what drew.
const receiptOf = (prompt, receipt) => {
  const lines = Object.entries(receipt).flatMap(([label, value]) => [make("dt", {}, label), make("dd", {}, value)]);
  if (prompt) lines.unshift(make("dt", {}, tell("receipt_prompt")), make("dd", { dir: "auto" }, prompt));
  return make("details", {}, make("summary", {}, tell("receipt")), make("dl", {}, ...lines));
};

// The next larger size of a picture: by half, or as far as the model goes; null where that is not much.
const LARGER = [1.2, 1.5];
const largerSize = ({ width, height }) => {
  const { limits, own, is_known } = offer();
  if (!is_known || !width || !height) return null;
  const by = Math.min(LARGER[1], limits.width.max / width, limits.height.max / height);
  const sides = [[width, limits.width], [height, limits.height]];
  const [w, h] = sides.map(([side, { multiple }]) => Math.floor((side * by) / (multiple || 1) + 1e-6) * (multiple || 1));
  if (by < LARGER[0] || w <= width || h <= height) return null;
  return { size: w === own.width && h === own.height ? "" : `${w}x${h}`, told: `${w} × ${h}` };
};
const showLarger = () => {
  const [button, larger] = [find("#larger"), shown && largerSize(shown)];
  if (!button) return;
  button.hidden = !larger;
  if (larger) button.title = tell("larger_hint", { size: larger.told });
};
onChange(showLarger); // what the model can do may become known later

const ACTIONS = {
  save: async () => download(await shownFile, shown.name),
  share: async () => {
    const file = new File([await shownFile], shown.name, { type: "image/png" });
    if (navigator.canShare?.({ files: [file] })) {
      await navigator.share({ files: [file], text: shown.prompt }).catch(() => {}); // the visitor thought better of it
      return;
    }
    try {
      await navigator.clipboard.write([new ClipboardItem({ "image/png": shownFile })]);
      say(tell("picture_copied"));
    } catch {
      say(tell("picture_not_copied"));
    }
  },
  "copy-link": async () => {
    const isCopied = await copy(addressOf(shown));
    say(tell(isCopied ? "link_copied" : "link_not_copied", { link: addressOf(shown) }));
  },
  again: () => {
    wantsToDraw = true;
    fill({ fields: settingsOf(shown, true) });
  },
  // The same seed with other words or settings; with the very same ones it would be the same picture.
  "same-seed": () => {
    const { seed, randomize_seed, num_images_per_prompt, ...now } = { ...settingsOf(shown), ...current };
    const { seed: _, randomize_seed: __, ...then } = settingsOf(shown);
    wantsToDraw = JSON.stringify(Object.entries(now).sort()) !== JSON.stringify(Object.entries(then).sort());
    fill({ fields: { seed: shown.seed, randomize_seed: false, num_images_per_prompt: "1" } });
    if (wantsToDraw) return;
    say(tell("seed_kept", { seed: shown.seed }));
    find("#prompt textarea")?.focus();
  },
  larger: () => {
    wantsToDraw = true;
    fill({ fields: { ...settingsOf(shown), size: largerSize(shown).size, num_images_per_prompt: "1" } });
  },
};
document.addEventListener("click", ({ target }) => {
  const action = ACTIONS[target.closest("#tools button")?.id];
  if (action && shown) action();
});

let wantsToDraw = false;
window.drawIfWanted = () => {
  if (wantsToDraw && find("#draw:disabled")) say(tell("still_drawing"));
  else if (wantsToDraw) find("#draw")?.click();
  wantsToDraw = false;
  return [];
};

const copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = make("textarea", { class: "copying" }); // not over HTTPS, or in a frame that may not
    field.value = text;
    document.body.append(field);
    field.select();
    const isCopied = document.execCommand("copy");
    field.remove();
    return isCopied;
  }
};
