// Tables one can sort and filter, and curves one can point at. The page says everything without it.
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
      tip.append(strong, `epoch ${line.epoch[i]}`, document.createElement("br"), `${panel.title}: ${line.value[i]}`);
      tip.firstChild.after(document.createElement("br"));
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
    const lines = panels.flatMap((panel) => panel.lines.map((line) => [panel, line]));
    let which = 0;
    let i = -1;
    plot.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return hide();
      const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      if (!step) return;
      event.preventDefault();
      which = (which + step[0] + lines.length) % lines.length;
      const [panel, line] = lines[which];
      i = i < 0 ? line.x.length - 1 : Math.max(0, Math.min(line.x.length - 1, i + step[1]));
      show(panel, line, i);
    });
  }

  page.querySelectorAll("table.sortable:not([data-ready])").forEach((table) => {
    table.dataset.ready = "";
    sortable(table);
    if (table.classList.contains("filter")) filtered(table);
  });
  page.querySelectorAll("script.points:not([data-ready])").forEach((script) => {
    script.dataset.ready = "";
    pointable(script.closest("figure"), JSON.parse(script.textContent));
  });
})();
