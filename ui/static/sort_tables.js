() => {
  // A click on a head sorts its table: ascending, descending, then as it was sent. Gradio redraws a table at every
  // update; it is sorted again by the head with the same text in the table with the same name.
  const chosen = new Map(); // name of the table -> [words of the head, direction]
  const words = new Intl.Collator(undefined, { numeric: true });
  const nameOf = (box) => `${box.closest("[id]")?.id ?? ""} ${box.getAttribute("aria-label")}`;

  const keyOf = (cell) => {
    const sort = cell?.dataset.sort;
    if (sort === undefined) return cell?.textContent.trim() || null;
    return sort === "" ? null : sort.split(" ").map(Number);
  };

  const compare = (a, b) => {
    if (typeof a === "string" || typeof b === "string") return words.compare(String(a), String(b));
    for (let place = 0; place < Math.min(a.length, b.length); place++) {
      if (a[place] !== b[place]) return a[place] - b[place];
    }
    return a.length - b.length;
  };

  const sort = (box) => {
    const table = box.querySelector("table"),
      body = table?.tBodies[0];
    if (!body) return;
    const [head, direction] = chosen.get(nameOf(box)) ?? [null, 0];
    const heads = [...table.tHead.rows[0].cells];
    const column = heads.findIndex((cell) => cell.textContent === head);
    const state = `${column} ${direction}`;
    if (table.sorted === state) return;
    if (table.sorted === undefined)
      [...body.rows].forEach((row, place) => {
        row.place = place;
      });
    table.sorted = state;
    heads.forEach((cell, place) => {
      const words = place === column && direction ? (direction > 0 ? "ascending" : "descending") : null;
      if (words) cell.setAttribute("aria-sort", words);
      else cell.removeAttribute("aria-sort");
    });
    const rows = [...body.rows].map((row) => ({ row, key: column < 0 ? null : keyOf(row.cells[column]) }));
    rows.sort((a, b) => {
      if (direction && (a.key === null) !== (b.key === null)) return a.key === null ? 1 : -1;
      const order = direction && a.key !== null ? direction * compare(a.key, b.key) : 0;
      return order || a.row.place - b.row.place;
    });
    body.append(...rows.map(({ row }) => row));
  };

  document.addEventListener("click", (event) => {
    const head = event.target.closest(".plain-table th");
    const box = head?.closest(".plain-table");
    if (!box || !head.querySelector("button")) return;
    const [before, direction] = chosen.get(nameOf(box)) ?? [null, 0];
    const next = before !== head.textContent ? 1 : direction === 1 ? -1 : direction === -1 ? 0 : 1;
    chosen.set(nameOf(box), [head.textContent, next]);
    sort(box);
  });

  new MutationObserver(() => {
    if (chosen.size) document.querySelectorAll(".plain-table").forEach(sort);
  }).observe(document.body, { childList: true, subtree: true });
};
