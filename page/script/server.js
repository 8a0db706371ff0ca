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
  if (answered && brokeOff && isBusy()) location.reload();
  wasAway = !answered;
};
setInterval(lookForServer, 10_000);
for (const event of ["online", "offline"]) addEventListener(event, lookForServer);
document.addEventListener("visibilitychange", lookForServer);
