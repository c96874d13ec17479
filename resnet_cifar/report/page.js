// Tables one can sort, filter and plot, curves one can point at, and folds that open for a link and
// on paper. The page says everything without it.
(() => {
  "use strict";
  const page = document.currentScript?.parentElement ?? document.body;

  // "−1.20 ± 2.05" and "12/15" sort by their first number, empty cells last either way.
  const key = (cell) => {
    const text = cell.textContent.trim();
    const number = parseFloat(text.replace(/[−–]/g, "-").replace(/^[^\d.+-]+(?=[+-]?[\d.])/, "").replace(/,/g, ""));
    return { text, number };
  };
  const compare = (a, b, words) =>
    words || Number.isNaN(a.number) || Number.isNaN(b.number)
      ? a.text.localeCompare(b.text, "en", { numeric: true })
      : a.number - b.number;

  function sortable(table) {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.title = "sort by this column";
      head.append(button);
      button.addEventListener("click", () => {
        const words = head.classList.contains("word");
        const before = head.getAttribute("aria-sort");
        const down = before ? before === "ascending" : !words; // of numbers the largest first
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows].map((row) => ({ row, key: key(row.cells[column]) }));
        rows.sort((a, b) =>
          !a.key.text || !b.key.text
            ? !a.key.text - !b.key.text
            : (down ? -1 : 1) * compare(a.key, b.key, words));
        body.append(...rows.map(({ row }) => row));
      });
    });
  }

  // Rows that hold every word of the field stay.
  function filtered(table) {
    const field = document.createElement("input");
    field.type = "search";
    field.className = "rows";
    field.placeholder = `filter ${table.tBodies[0].rows.length} rows`;
    field.setAttribute("aria-label", "Show only rows with these words");
    table.parentElement.before(field);
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of table.tBodies[0].rows) {
        const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
    });
  }

  // Every panel of a figure: its box and its lines, in the units of the SVG's viewBox.
  function pointable(figure, panels) {
    const svg = figure.querySelector("svg");
    const plot = figure.querySelector(".plot");
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.setAttribute("role", "status");
    tip.hidden = true;
    plot.append(tip);
    const mark = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    mark.setAttribute("r", "4");
    mark.setAttribute("class", "mark-point");
    mark.style.display = "none";
    svg.append(mark);
    plot.tabIndex = 0;
    plot.setAttribute("role", "application");
    plot.setAttribute("aria-label", `${plot.getAttribute("aria-label")} Arrow keys read the values.`);

    function show(panel, line, i) {
      const [x, y] = [line.x[i], line.y[i]];
      mark.setAttribute("cx", x);
      mark.setAttribute("cy", y);
      mark.style.display = "";
      tip.replaceChildren();
      const strong = document.createElement("strong");
      strong.textContent = line.label;
      const texts = line.epoch.length ? [`epoch ${line.epoch[i]}`] : [];
      tip.append(strong);
      for (const text of [...texts, `${panel.title}: ${line.value[i]}`])
        tip.append(document.createElement("br"), text);
      tip.hidden = false;
      const at = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
      const box = plot.getBoundingClientRect();
      const left = Math.min(at.x - box.left + 12, box.width - tip.offsetWidth - 4);
      tip.style.left = `${Math.max(0, left) + plot.scrollLeft}px`;
      tip.style.top = `${Math.max(0, at.y - box.top - tip.offsetHeight - 12)}px`;
    }
    function hide() {
      tip.hidden = true;
      mark.style.display = "none";
    }
    plot.addEventListener("pointermove", (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      let best = null;
      for (const panel of panels) {
        const [left, top, right, bottom] = panel.box;
        if (at.x < left - 6 || at.x > right + 6 || at.y < top - 6 || at.y > bottom + 6) continue;
        for (const line of panel.lines)
          for (let i = 0; i < line.x.length; i++) {
            const far = (line.x[i] - at.x) ** 2 + (line.y[i] - at.y) ** 2;
            if (!best || far < best.far) best = { far, panel, line, i };
          }
      }
      if (best && best.far < 40 ** 2) show(best.panel, best.line, best.i);
      else hide();
    });
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("blur", hide);

    // All lines of all panels, in a row: up and down change the line, left and right the epoch.
    let which = 0;
    let i = -1;
    plot.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return hide();
      const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      if (!step) return;
      event.preventDefault();
      const lines = panels.flatMap((panel) => panel.lines.map((line) => [panel, line]));
      which = (which + step[0] + lines.length) % lines.length;
      const [panel, line] = lines[which];
      i = i < 0 ? line.x.length - 1 : Math.max(0, Math.min(line.x.length - 1, i + step[1]));
      show(panel, line, i);
    });
  }

  // A column of numbers: its values, and where on an axis of a length each of them lies. Over a
  // factor of 20 it is logarithmic, with zero left of the rest.
  function scale(values, length) {
    const known = [...new Set(values.filter(Number.isFinite))].sort((a, b) => a - b);
    const least = known.find((value) => value > 0);
    const log = known[0] >= 0 && known.at(-1) / least >= 20;
    const along = (value) => (!log ? value : value > 0 ? Math.log10(value) : Math.log10(least) - 0.5);
    const [low, high] = [along(known[0]), along(known.at(-1))];
    const step = 10 ** Math.floor(Math.log10((high - low) / 2));
    const first = Math.ceil(low / step);
    const steps = [...Array(Math.floor(high / step) - first + 1).keys()];
    const all = steps.map((k) => (first + k) * step).map((at) => (log ? 10 ** at : at));
    const ticks = known.length < 9 ? known : all.filter((_, k) => k % Math.ceil(all.length / 8) === 0);
    const place = (value) => (0.04 + (0.92 * (along(value) - low)) / (high - low)) * length;
    return { place, ticks };
  }

  // Any two columns of numbers of a table against each other.
  function plotted(table) {
    const rows = [...table.tBodies[0].rows];
    const titles = [...table.tHead.rows[0].cells].filter((head) => !head.classList.contains("word"));
    const columns = titles
      .map((head) => ({ title: head.textContent, cells: rows.map((row) => row.cells[head.cellIndex]) }))
      .map((column) => ({ ...column, values: column.cells.map((cell) => key(cell).number) }))
      .filter((column) => new Set(column.values.filter(Number.isFinite)).size > 1);
    if (columns.length < 2) return;
    const figure = document.createElement("figure");
    figure.className = "scatter";
    figure.innerHTML =
      '<label>across <select></select></label><label>up <select></select></label><div class="plot" ' +
      'aria-label="Runs as dots, by the two columns chosen above."><svg viewBox="0 0 700 360"></svg></div>';
    const [across, up] = figure.querySelectorAll("select");
    for (const select of [across, up])
      select.append(...columns.map((column, i) => new Option(column.title, i)));
    across.value = Math.max(1, columns.findIndex((column) => column.title === table.dataset.plot));
    const svg = figure.querySelector("svg");
    const draw = (name, attributes, text = "") => {
      const shape = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [attribute, value] of Object.entries(attributes)) shape.setAttribute(attribute, value);
      shape.textContent = text;
      dots.append(shape);
    };
    let dots;
    const panels = [{ box: [70, 0, 700, 310], lines: [] }];
    const redraw = () => {
      const [x, y] = [columns[across.value], columns[up.value]];
      const [right, above] = [scale(x.values, 620), scale(y.values, 300)];
      dots?.remove();
      dots = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "g"));
      const short = (value) => String(Number(value.toPrecision(4)));
      for (const value of right.ticks) {
        const at = 70 + right.place(value);
        draw("line", { x1: at, x2: at, y1: 0, y2: 310, stroke: "var(--line)" });
        draw("text", { x: at, y: 328, "text-anchor": "middle" }, short(value));
      }
      for (const value of above.ticks) {
        const at = 310 - above.place(value);
        draw("line", { x1: 70, x2: 700, y1: at, y2: at, stroke: "var(--line)" });
        draw("text", { x: 62, y: at + 4, "text-anchor": "end" }, short(value));
      }
      draw("text", { x: 380, y: 352, "text-anchor": "middle" }, x.title);
      panels[0].title = y.title;
      panels[0].lines = [];
      rows.forEach((row, i) => {
        if (!Number.isFinite(x.values[i]) || !Number.isFinite(y.values[i])) return;
        const [cx, cy] = [70 + right.place(x.values[i]), 310 - above.place(y.values[i])];
        draw("circle", { cx, cy, r: 4, fill: "var(--accent)", "fill-opacity": 0.6 });
        const value = `${y.cells[i].textContent}, ${x.title}: ${x.cells[i].textContent}`;
        const label = row.cells[row.cells.length - 1].textContent;
        panels[0].lines.push({ label, x: [cx], y: [cy], epoch: [], value: [value] });
      });
    };
    across.addEventListener("change", redraw);
    up.addEventListener("change", redraw);
    redraw();
    pointable(figure, panels);
    table.parentElement.before(figure);
  }

  page.querySelectorAll("table.sortable:not([data-ready])").forEach((table) => {
    table.dataset.ready = "";
    sortable(table);
    if (table.dataset.plot) plotted(table);
    if (table.classList.contains("filter")) filtered(table);
  });
  page.querySelectorAll("script.points:not([data-ready])").forEach((script) => {
    script.dataset.ready = "";
    pointable(script.closest("figure"), JSON.parse(script.textContent));
  });

  // Folds: a link opens what it leads to, paper opens all.
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details"))
      fold.open = true;
    target.scrollIntoView();
  };
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...page.querySelectorAll("details:not([open])")];
    closed.forEach((fold) => (fold.open = true));
  });
  addEventListener("afterprint", () => closed.forEach((fold) => (fold.open = false)));
  addEventListener("hashchange", reveal);
  page.querySelectorAll("nav a").forEach((link) =>
    link.addEventListener("click", () => {
      link.closest("details").open = false; // the bar of a narrow window; beside the page it stays
      if (link.hash === location.hash) reveal();
    }));
  reveal();
})();
