// The list of the chain's links is kept fresh while it is unfolded and the page is looked at. It asks this page's server
// alone, and wakes nothing.
const lookAtChain = async () => {
  const list = find("#chain details[open] > div");
  if (!list || document.hidden) return;
  const asked = fetch(`${window.gradio_config.root}/chain?lang=${language}`, { cache: "no-store", signal: AbortSignal.timeout(5000) });
  const answer = await asked.catch(() => null);
  if (answer?.ok) list.innerHTML = await answer.text();
};
setInterval(lookAtChain, 3000);
document.addEventListener("toggle", ({ target }) => target.closest?.("#chain") && lookAtChain(), true);

// A link to a drawing, `?picture=` with its id, shows it to whoever has the link. Who asked for it may cancel it as well,
// by what the browser remembers.
window.pictureToFind = (jobId) => {
  const linked = new URLSearchParams(location.search).get("picture");
  return linked && !jobId?.includes(linked) ? linked : jobId;
};
