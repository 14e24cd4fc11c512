"use strict";
// Without this script everything is shown; with it, rows can be filtered and folded.
for (const button of document.querySelectorAll("button.expand")) {
  const more = document.getElementById(button.getAttribute("aria-controls"));
  const show = (open) => {
    button.setAttribute("aria-expanded", String(open));
    more.hidden = !open;
  };
  show(false);
  button.addEventListener("click", () => show(more.hidden));
  button.closest("tr").addEventListener("click", (event) => {
    if (!event.target.closest("button") && !String(getSelection())) show(more.hidden);
  });
}

for (const form of document.querySelectorAll("form[data-filters]")) {
  const list = document.getElementById(form.dataset.filters);
  const rows = [...list.querySelectorAll("tbody > tr:not(.more), :scope > li")];
  const texts = rows.map((row) => {
    const button = row.querySelector("button.expand");
    const more = button && document.getElementById(button.getAttribute("aria-controls"));
    return (row.textContent + " " + (more ? more.textContent : "")).toLowerCase();
  });
  const keys = [...form.querySelectorAll("[data-key]")];
  const matches = (row, text, field) => {
    const wanted = field.value;
    if (!wanted) return true;
    if (field.dataset.key === "text") return text.includes(wanted.toLowerCase());
    return field.dataset.key === "question" ? row.dataset.question === wanted : row.dataset[field.dataset.key].split("|").includes(wanted);
  };
  const apply = () => {
    let shown = 0;
    rows.forEach((row, i) => {
      const keep = keys.every((field) => matches(row, texts[i], field));
      row.hidden = !keep;
      shown += keep;
      const button = row.querySelector("button.expand");
      if (button) {
        const open = button.getAttribute("aria-expanded") === "true";
        document.getElementById(button.getAttribute("aria-controls")).hidden = !keep || !open;
      }
    });
    form.querySelector("output").textContent = `${shown} of ${rows.length} shown`;
  };
  for (const field of keys) {
    if (field.dataset.start) field.value = field.dataset.start;
    field.addEventListener("input", () => {
      const apart = (field.dataset.clears || "").split(" ");
      for (const other of keys) if (apart.includes(other.dataset.key)) other.value = "";
      apply();
    });
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
}

// Paper cannot unfold.
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});

// What a drawn mark says to a screen reader is shown beside the pointer.
const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
document.body.append(tip);
document.addEventListener("mousemove", (event) => {
  const mark = event.target.closest && event.target.closest(".picture [role=graphics-symbol][aria-label]");
  tip.hidden = !mark;
  if (tip.hidden) return;
  tip.textContent = mark.getAttribute("aria-label").split("; ").join("\n");
  tip.style.left = `${Math.min(event.pageX + 12, document.documentElement.scrollWidth - tip.offsetWidth)}px`;
  tip.style.top = `${event.pageY + 14}px`;
});
