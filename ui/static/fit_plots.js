() => {
  // A plot drawn on a hidden tab has no box to fit into; plotly measures again when the window changes.
  setTimeout(() => window.dispatchEvent(new Event("resize")), 100);
};
