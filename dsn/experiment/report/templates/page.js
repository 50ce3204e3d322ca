"use strict";
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const stored = { // a page opened from disk may be refused a store
    get() { try { return localStorage.getItem("dsn-report-theme"); } catch { return null; } },
    set(theme) { try { localStorage.setItem("dsn-report-theme", theme); } catch { /* this page only */ } },
  };
  const theme = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const chosen = stored.get();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;

  function toggling() {
    const button = document.getElementById("theme");
    const show = () => {
      const isDark = theme() === "dark";
      button.textContent = isDark ? "light" : "dark";
      button.setAttribute("aria-label", isDark ? "show in light colours" : "show in dark colours");
      button.setAttribute("aria-pressed", String(isDark));
    };
    button.addEventListener("click", () => {
      root.dataset.theme = theme() === "dark" ? "light" : "dark";
      stored.set(root.dataset.theme);
      show();
    });
    dark.addEventListener("change", show);
    show();
  }

  // numbers by value, text by the alphabet, what is missing last either way
  function order(a, b, place, numeric, direction) {
    const [x, y] = [a, b].map((row) => row.cells[place].dataset.sort);
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    const number = (text) => (text === "inf" ? Infinity : Number(text));
    const [p, q] = [number(x), number(y)];
    const difference = numeric ? (p === q ? 0 : p < q ? -1 : 1) : x.localeCompare(y, "en", { numeric: true });
    return direction * difference;
  }

  function sorting(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, place) => {
      const button = head.querySelector("button");
      if (!button) return;
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const numeric = head.classList.contains("number");
        const was = head.getAttribute("aria-sort");
        const ascending = was === "none" ? !numeric : was === "descending";
        heads.forEach((other) => other.hasAttribute("aria-sort") && other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => order(a, b, place, numeric, ascending ? 1 : -1));
        table.tBodies[0].append(...rows);
      });
    });
  }

  function contents() {
    const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
    const mark = (id) => links.forEach((a, key) => a.toggleAttribute("aria-current", key === id));
    const seen = new IntersectionObserver(
      (entries) => entries.forEach((entry) => entry.isIntersecting && mark(entry.target.id)),
      { rootMargin: "-10% 0px -75% 0px" },
    );
    document.querySelectorAll("section").forEach((section) => seen.observe(section));
  }

  document.addEventListener("DOMContentLoaded", () => {
    toggling();
    document.querySelectorAll("table").forEach(sorting);
    contents();
  });
})();
