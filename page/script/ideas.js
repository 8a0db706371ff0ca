// Words for the prompt: a style adds its words, or takes them away again; Surprise me writes a whole one.

const promptNow = () => find("#prompt textarea")?.value ?? "";
const without = (prompt, style) => {
  const at = prompt.lastIndexOf(style);
  if (at < 0) return prompt;
  return `${prompt.slice(0, at).replace(/,\s*$/, "")}${prompt.slice(at + style.length)}`.replace(/^,\s*/, "").trim();
};

document.addEventListener("click", ({ target }) => {
  const chip = target.closest("#styles button");
  if (!chip) return;
  let prompt = promptNow();
  if (chip.id === "surprise") {
    const ideas = JSON.parse(chip.dataset.ideas).filter((idea) => idea !== prompt);
    prompt = ideas[Math.floor(Math.random() * ideas.length)];
  } else {
    const isOn = prompt.includes(chip.dataset.words);
    for (const other of document.querySelectorAll("#styles [data-words]")) prompt = without(prompt, other.dataset.words);
    if (!isOn) prompt = prompt.trim() ? `${prompt.trim().replace(/,$/, "")}, ${chip.dataset.words}` : chip.dataset.words;
  }
  fill({ fields: { prompt } });
});

const showPressedStyles = () => {
  const prompt = current?.prompt ?? "";
  for (const chip of document.querySelectorAll("#styles [data-words]")) {
    chip.setAttribute("aria-pressed", prompt.includes(chip.dataset.words));
  }
};
