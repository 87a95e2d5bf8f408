"use strict";
// Tables sort by their header buttons: numbers as numbers (data-sort), empty cells last.
const key = (row, column) => {
  const cell = row.cells[column];
  if (!cell) return null;
  const text = cell.dataset.sort ?? cell.textContent.trim();
  return text === "" ? null : isNaN(text) ? text : Number(text);
};
const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en"));
const sort = (table, column) => {
  const head = table.tHead.rows[0].cells;
  const down = head[column].getAttribute("aria-sort") === "ascending";
  for (const cell of head) cell.removeAttribute("aria-sort");
  head[column].setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [key(row, column), row]);
  rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : down ? compare(b, a) : compare(a, b)));
  body.append(...rows.map(([, row]) => row));
};
for (const table of document.querySelectorAll("table")) {
  if (!table.tHead || table.tHead.rows.length !== 1 || table.tBodies[0].rows.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...cell.childNodes);
    button.addEventListener("click", () => sort(table, column));
    cell.append(button);
  });
}
// A cell or a sentence tells its runs: on hover by its title, by a click or Enter with links to them.
const who = document.createElement("div");
who.id = "who";
who.hidden = true;
who.setAttribute("role", "status");
document.body.append(who);
let kept = null;
const hide = () => { who.hidden = true; kept = null; };
const show = (part) => {
  const runs = part.dataset.runs.split(" ").filter(Boolean);
  const said = (part.title || "").split(/;? ?runs: /)[0];
  who.replaceChildren(said ? said + "; " : "", `${runs.length} ${runs.length === 1 ? "run" : "runs"}: `);
  runs.forEach((run, i) => {
    const link = document.createElement("a");
    link.href = "#run-" + run;
    link.textContent = run;
    who.append(i ? ", " : "", link);
  });
  who.hidden = false;
  const box = part.getBoundingClientRect();
  const left = Math.min(box.left, document.documentElement.clientWidth - who.offsetWidth - 8);
  who.style.left = Math.max(8, left) + window.scrollX + "px";
  who.style.top = box.bottom + window.scrollY + 2 + "px";
};
for (const part of document.querySelectorAll("[data-runs]")) {
  if (!part.dataset.runs) continue;
  part.tabIndex = 0;
  part.title ||= "runs: " + part.dataset.runs;
  const turn = () => { if (kept === part) hide(); else { show(part); kept = part; } };
  part.addEventListener("click", turn);
  part.addEventListener("keydown", (event) => { if (event.key === "Enter" && event.target === part) turn(); });
}
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
document.addEventListener("click", (event) => { if (!event.target.closest("[data-runs], #who")) hide(); });
// On a phone the contents would push the figures down.
if (document.documentElement.clientWidth < 640) document.querySelector("nav details").open = false;
// Paper shows what is folded away.
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const part of opened) part.open = true;
});
window.addEventListener("afterprint", () => { for (const part of opened) part.open = false; });
