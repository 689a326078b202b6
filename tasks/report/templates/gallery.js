"use strict";
(() => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const at = (id) => document.getElementById(id);
  const list = at("shots"), shots = [...list.children];
  const rows = facts.rows.map(([uri, image, label, confidence]) => ({ uri, image, label, confidence }));
  const nameOf = (row) => `${row.image} ${row.uri}`; // a label is of these bytes, seen at this place
  const place = `grayline gallery ${facts.key}`;
  const FULL = 60; // classes; a page with more of them fills a list when it is opened

  // What was decided, also on other pages of the same batch. Nothing of it is lost by a reload.
  let keeps = true, unsaved = false;
  const chosen = new Map(recalled());

  function recalled() {
    try {
      return Object.entries(JSON.parse(localStorage.getItem(place) || "{}"));
    } catch {
      return [];
    }
  }

  function keep() {
    unsaved = true;
    try {
      localStorage.setItem(place, JSON.stringify(Object.fromEntries(chosen)));
    } catch {
      keeps = false;
    }
    at("forgets").hidden = keeps;
  }

  function fill(select) {
    if (select.dataset.full) return;
    const now = select.value;
    select.replaceChildren(new Option("leave", ""), ...facts.classes.map((name) => new Option(name, name)),
      new Option("none of these", facts.none));
    select.value = now;
    select.dataset.full = "yes";
  }

  function show(shot) {
    const row = rows[shot.dataset.number], select = shot.querySelector("select");
    if (!select) return;
    const label = chosen.get(nameOf(row))?.label ?? "";
    if (label && ![...select.options].some((option) => option.value === label)) select.add(new Option(label, label));
    select.value = label;
    if (label) shot.dataset.done = label === row.label ? "same" : "other";
    else delete shot.dataset.done;
  }

  function decide(shot, label) {
    const row = rows[shot.dataset.number];
    if (!shot.querySelector("select")) return;
    if (label) {
      const time = new Date().toISOString();
      chosen.set(nameOf(row), { ...row, label, predicted: row.label, at: time });
    } else chosen.delete(nameOf(row));
    keep();
    show(shot);
    count();
    at("said").textContent = label ? `${shot.getAttribute("aria-label")}: ${label}` : "left as it is";
  }

  // Filters

  function fits(shot) {
    const row = rows[shot.dataset.number], failed = "failed" in shot.dataset;
    const low = Number(at("from").value || 0), high = at("to").value === "" ? 100 : Number(at("to").value);
    const label = at("label").selectedOptions[0];
    const states = {
      "": true, review: "review" in shot.dataset, unknown: "unknown" in shot.dataset, failed,
      open: !failed && !("done" in shot.dataset), done: "done" in shot.dataset,
    };
    if (!states[at("state").value] || (label.value !== "" && row.label !== label.textContent)) return false;
    if (failed) return low <= 0 && high >= 100;
    const percent = 100 * row.confidence;
    return percent >= low && percent <= high;
  }

  function filter() {
    for (const shot of shots) shot.hidden = !fits(shot);
    const visible = shots.filter((shot) => !shot.hidden);
    at("nothing").hidden = visible.length > 0;
    if (!visible.some((shot) => shot.tabIndex === 0)) reach(visible[0]);
    count();
  }

  // Tab comes to one image and its list, the arrows to all others.
  function reach(next) {
    if (!next) return;
    for (const shot of shots) {
      shot.tabIndex = shot === next ? 0 : -1;
      const select = shot.querySelector("select");
      if (select) select.tabIndex = shot.tabIndex;
    }
  }

  function order() {
    const number = (shot) => Number(shot.dataset.number), row = (shot) => rows[shot.dataset.number];
    const compare = {
      first: (a, b) => number(a) - number(b),
      sure: (a, b) => (row(b).confidence ?? -1) - (row(a).confidence ?? -1) || number(a) - number(b),
      name: (a, b) => row(a).uri < row(b).uri ? -1 : row(a).uri > row(b).uri ? 1 : 0,
    }[at("order").value];
    list.append(...shots.sort(compare));
  }

  function count() {
    const here = shots.filter((shot) => "done" in shot.dataset).length, other = chosen.size - here;
    const visible = shots.filter((shot) => !shot.hidden).length;
    const more = other > 0 ? ` (${other} on other pages)` : "";
    at("shown").textContent = `${visible} shown, ${chosen.size} decided${more}`;
    at("export").disabled = chosen.size === 0;
    at("export").textContent = chosen.size ? `Export ${chosen.size} ${chosen.size === 1 ? "label" : "labels"}` : "Export labels";
  }

  // Export

  function table() {
    // A spreadsheet would compute such a text; the apostrophe goes when the table is read (storage/delimited.py).
    const formula = /^'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/, number = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
    const cell = (text) => formula.test(text) && !number.test(text) ? `'${text}` : text;
    const quoted = (value) => `"${cell(String(value ?? "")).replaceAll('"', '""')}"`;
    const lines = [...chosen.values()].sort((a, b) => a.uri < b.uri ? -1 : 1).map((one) => [
      one.uri, one.label, facts.source, one.predicted, one.confidence.toFixed(4), one.image, one.at,
    ].map(quoted).join(","));
    return ["path,label,source,predicted,confidence,image_id,corrected_at", ...lines, ""].join("\n");
  }

  at("export").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
    link.download = `${facts.file}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    unsaved = false;
    at("said").textContent = `${link.download} is among your downloads`;
  });

  addEventListener("beforeunload", (event) => {
    if (!keeps && unsaved) event.preventDefault();
  });

  // Keys

  const across = (visible) => {
    const top = visible[0].offsetTop;
    return Math.max(1, visible.findIndex((shot) => shot.offsetTop !== top)) || 1;
  };

  function move(shot, steps) {
    const visible = shots.filter((one) => !one.hidden);
    const wide = visible.every((one) => one.offsetTop === visible[0].offsetTop) ? visible.length : across(visible);
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -wide, ArrowDown: wide, next: 1 }[steps];
    const next = visible[visible.indexOf(shot) + step];
    if (!next) return;
    reach(next);
    next.focus();
  }

  list.addEventListener("keydown", (event) => {
    const shot = event.target;
    if (!shot.classList.contains("shot") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key.startsWith("Arrow")) move(shot, event.key);
    else if (event.key === "Enter") { decide(shot, rows[shot.dataset.number].label); move(shot, "next"); }
    else if (event.key === "-") { decide(shot, facts.none); move(shot, "next"); }
    else if (event.key === " ") enlarge(shot);
    else if (event.key === "Backspace" || event.key === "Delete") decide(shot, "");
    else if (Object.hasOwn(facts.keys, event.key)) { decide(shot, facts.keys[event.key]); move(shot, "next"); }
    else return;
    event.preventDefault();
  });
  list.addEventListener("focusin", (event) => {
    reach(event.target.closest(".shot"));
    if (event.target.tagName === "SELECT") fill(event.target);
  });
  list.addEventListener("pointerdown", (event) => {
    if (event.target.tagName === "SELECT") fill(event.target);
  });
  list.addEventListener("change", (event) => decide(event.target.closest(".shot"), event.target.value));
  list.addEventListener("click", (event) => {
    const shot = event.target.closest(".shot");
    if (event.target.tagName !== "SELECT") shot?.focus();
    if (event.target.closest(".frame")) enlarge(shot);
  });

  // A click on a picture, or the space bar, shows it as large as the window is.
  const large = at("large");
  function enlarge(shot) {
    const images = [...shot.querySelectorAll(".frame img")];
    if (!images.length) return;
    at("picture").replaceChildren(...images.map((image) => image.cloneNode()));
    at("caption").textContent = shot.getAttribute("aria-label");
    large.showModal();
  }
  large.addEventListener("click", () => large.close());

  // A key lays the heat over all pictures, also over the enlarged one.
  const heat = at("heat");
  heat?.addEventListener("input", () => document.body.classList.toggle("heated", heat.checked));
  addEventListener("keydown", (event) => {
    if (!heat || event.key !== "." || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target instanceof Element && event.target.matches("select, input:not([type=checkbox])")) return;
    heat.click();
    event.preventDefault();
  });
  for (const id of ["state", "label", "from", "to"]) at(id).addEventListener("input", filter);
  at("order").addEventListener("input", order);
  at("size").addEventListener("input", () => list.classList.toggle("large", at("size").value === "large"));
  at("bar").addEventListener("submit", (event) => event.preventDefault());
  at("all").addEventListener("click", () => {
    at("bar").reset();
    list.classList.remove("large");
    document.body.classList.remove("heated");
    order();
    filter();
  });
  addEventListener("storage", (event) => {
    if (event.key !== place) return;
    chosen.clear();
    for (const [name, one] of recalled()) chosen.set(name, one);
    shots.forEach(show);
    count();
  });

  // A file that has other bytes now: what was decided on the old ones is not of it.
  const current = new Map(rows.map((row) => [row.uri, row.image]));
  for (const [name, one] of chosen) {
    if (current.has(one.uri) && current.get(one.uri) !== one.image) chosen.delete(name);
  }
  if (facts.classes.length <= FULL) shots.map((shot) => shot.querySelector("select")).filter(Boolean).forEach(fill);
  shots.forEach(show);
  at("bar").reset();
  order();
  filter();
  reach(shots.find((shot) => !shot.hidden));
})();
