// The page works without this: it finds and sorts columns, and keeps a page that is served up to date.
"use strict";
const main = document.querySelector("main");

function show(tools) {
  const table = document.getElementById(tools.dataset.of);
  const words = tools.querySelector("input[type=search]").value.toLowerCase().split(/\s+/).filter(Boolean);
  const changedOnly = tools.querySelector("input[type=checkbox]").checked;
  const key = tools.querySelector("select").value;
  const rows = [...table.tBodies[0].rows];
  let shown = 0;
  for (const row of rows) {
    const fits = words.every(word => row.dataset.name.toLowerCase().includes(word));
    row.hidden = !fits || (changedOnly && !row.classList.contains("changed"));
    shown += !row.hidden;
  }
  rows.sort((a, b) => key === "name" ? a.dataset.name.localeCompare(b.dataset.name, undefined, {numeric: true})
    : Number(b.dataset[key]) - Number(a.dataset[key]));
  table.tBodies[0].append(...rows);
  tools.querySelector("output").textContent = `${shown} of ${rows.length} shown`;
}

main.addEventListener("input", event => {
  const tools = event.target.closest(".tools");
  if (tools) show(tools);
});
document.addEventListener("keydown", event => {
  if (event.key === "/" && !event.target.closest("input,select,textarea")) {
    const search = main.querySelector("input[type=search]");
    if (search) { event.preventDefault(); search.focus(); }
  }
});
// A link to a picture must find it although the search hides it.
function reveal() {
  const row = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (row && row.hidden) { row.hidden = false; row.scrollIntoView(); }
}
addEventListener("hashchange", reveal);
for (const tools of main.querySelectorAll(".tools")) { tools.hidden = false; }

// A page that is served asks for itself again; a page from a file does not.
const everySeconds = Number(document.documentElement.dataset.live);
const note = document.getElementById("live");
async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch(location.pathname, {cache: "no-store"});
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    const found = new DOMParser().parseFromString(await answer.text(), "text/html");
    const kept = [...main.querySelectorAll(".tools")].map(tools =>
      [...tools.querySelectorAll("input,select")].map(field => field.type === "checkbox" ? field.checked : field.value));
    const focused = main.contains(document.activeElement) ? document.activeElement.id : "";
    const caret = focused && "selectionStart" in document.activeElement ? document.activeElement.selectionStart : null;
    document.title = found.title;
    document.getElementById("written").replaceWith(found.getElementById("written"));
    main.replaceChildren(...found.querySelector("main").childNodes);
    main.querySelectorAll(".tools").forEach((tools, place) => {
      tools.hidden = false;
      if (!kept[place]) return;
      [...tools.querySelectorAll("input,select")].forEach((field, k) => {
        if (field.type === "checkbox") field.checked = kept[place][k]; else field.value = kept[place][k];
      });
      show(tools);
    });
    const again = focused && document.getElementById(focused);
    if (again) {
      again.focus({preventScroll: true});
      if (caret !== null && again.setSelectionRange) again.setSelectionRange(caret, caret);
    }
    note.textContent = "live";
  } catch (error) {
    note.textContent = `not live: the server does not answer (${error.message})`;
  }
}
if (everySeconds > 0) setInterval(refresh, 1000 * everySeconds);
