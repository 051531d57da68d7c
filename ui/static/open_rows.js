// For a gr.HTML with a table: a click on a row, or its button by keyboard, reports the row's key.
element.addEventListener("click", (event) => {
  const row = event.target.closest("tr[data-key]");
  if (row) trigger("chosen", { key: row.dataset.key });
});
