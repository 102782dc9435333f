"use strict";
(() => {
  const results = document.getElementById("all");
  const body = results.tBodies[0];
  const rows = [...body.rows];
  const filtered = [...rows, ...document.querySelectorAll("article.failure")];
  const cells = [...document.querySelectorAll("a.cell")];
  const input = document.getElementById("words");
  const boxes = [...document.querySelectorAll("input[name=verdict]")];
  const shown = document.getElementById("shown");
  const many = shown.textContent;
  const texts = new Map();
  const text = (each) => {
    if (!texts.has(each)) texts.set(each, each.textContent.toLowerCase());
    return texts.get(each);
  };
  const target = (link) => {
    try {
      return decodeURIComponent(link.hash.slice(1));
    } catch {
      return link.hash.slice(1);
    }
  };

  const filter = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const verdicts = new Set(boxes.filter((each) => each.checked).map((each) => each.value));
    const all = !words.length && verdicts.size === boxes.length;
    const fits = (each) => verdicts.has(each.dataset.verdict) && words.every((word) => text(each).includes(word));
    for (const each of filtered) each.hidden = !all && !fits(each);
    const left = rows.filter((each) => !each.hidden);
    const links = new Set(left.map((each) => each.querySelector("a").hash));
    for (const each of cells) each.classList.toggle("faded", !all && !links.has(each.hash));
    shown.textContent = all ? many : `${left.length} of ${many}`;
  };
  input.addEventListener("input", filter);
  for (const each of boxes) each.addEventListener("change", filter);
  input.form.addEventListener("submit", (event) => event.preventDefault());

  // Whatever is asked for by its address is shown, also where a filter hides it.
  const reveal = () => {
    const found = document.getElementById(target(location));
    if (!found) return;
    if (found.hidden) {
      input.value = "";
      for (const each of boxes) each.checked = true;
      filter();
    }
    found.scrollIntoView();
    if (found.matches("article.failure")) found.focus({ preventScroll: true });
  };
  window.addEventListener("hashchange", reveal);
  const [navigation] = performance.getEntriesByType("navigation");
  if (location.hash && navigation?.type !== "reload") reveal();

  // The page of a watch is written anew; whoever is about something here is not disturbed.
  const again = document.querySelector("#watched input");
  const idle = () =>
    !input.value && boxes.every((each) => each.checked) && !document.querySelector("details[open]") &&
    !String(getSelection()) && [document.body, again].includes(document.activeElement);
  if (again) {
    setInterval(() => { if (again.checked && !document.hidden && idle()) location.reload(); }, 2000);
  }

  const number = (words) => {
    if (words === "100 %") return 1;
    const [value, of] = words.replace(/,/g, "").replace(/inf|nan/, "Infinity").split(" of ").map(parseFloat);
    return Number.isNaN(value) ? -1 : of ? value / of : value;
  };
  const heads = [...results.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.firstElementChild.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const each of heads) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].textContent.trim();
      const numeric = head.classList.contains("n");
      const keyed = rows.map((row) => [numeric ? number(key(row)) : key(row), row]);
      const order = numeric
        ? (a, b) => (a[0] === b[0] ? 0 : a[0] < b[0] ? -1 : 1)
        : (a, b) => a[0].localeCompare(b[0], undefined, { numeric: true });
      keyed.sort(order);
      if (down) keyed.reverse();
      body.append(...keyed.map((each) => each[1]));
    });
  });

  const copied = (button) => {
    const old = button.innerHTML;
    button.textContent = "copied";
    setTimeout(() => { button.innerHTML = old; }, 1500);
  };
  const byHand = (code) => {
    const range = document.createRange();
    range.selectNodeContents(code);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    return document.execCommand("copy");
  };
  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      let done = false;
      try {
        await navigator.clipboard.writeText(code.textContent);
        done = true;
      } catch {
        done = byHand(code);
      }
      if (done) copied(button);
    });
  }
})();
