// The server tells a moment as the time that is left until then, or has passed since. Here it becomes the visitor's own
// time of day, which does not grow old while the page stands open.
const momentOf = (moment) => {
  const time = moment.toLocaleTimeString(locale, { timeStyle: "short" });
  if (moment.toDateString() === new Date().toDateString()) return time;
  const isNear = Math.abs(moment - Date.now()) < 6 * 24 * 3600 * 1000;
  const day = isNear ? { weekday: "long" } : { day: "numeric", month: "long" };
  return tell("time_on_day", { time, day: moment.toLocaleDateString(locale, day) });
};
const tellTimes = () => {
  for (const time of document.querySelectorAll("#status time[data-around]")) {
    const told = time.dataset.around.replace("{}", momentOf(new Date(time.dateTime)));
    if (time.textContent !== told) time.textContent = told;
  }
};
onChange(tellTimes);
