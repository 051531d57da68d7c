() => {
  // Gradio builds a new chart for every update, and the zoom would go with the old one. It is kept by the chart's
  // place, the axis and its uirevision, and given to the next chart that agrees in all three.
  const zooms = new Map();
  const seen = new WeakSet();
  const nameOf = (plot, axis) =>
    [plot.closest(".keeps-zoom").id, axis, plot._fullLayout[axis].uirevision].join(" ");

  const watch = (plot) => {
    let resets = false;
    plot.on("plotly_doubleclick", () => {
      resets = true;
    });
    plot.on("plotly_relayout", (change) => {
      const axes = Object.keys(change).map((key) => key.match(/^([xy]axis\d*)\.(auto)?range/)?.[1]);
      for (const axis of new Set(axes.filter(Boolean))) {
        const { autorange, range } = plot._fullLayout[axis];
        if (resets || autorange === true) zooms.delete(nameOf(plot, axis));
        else zooms.set(nameOf(plot, axis), [...range]);
      }
      resets = false;
    });
  };

  const restore = (plot) => {
    const change = {};
    for (const axis of Object.keys(plot._fullLayout).filter((key) => /^[xy]axis\d*$/.test(key))) {
      const range = zooms.get(nameOf(plot, axis));
      if (range) change[`${axis}.range`] = range;
    }
    if (Object.keys(change).length) window.Plotly.relayout(plot, change);
  };

  new MutationObserver(() => {
    for (const plot of document.querySelectorAll(".keeps-zoom .js-plotly-plot")) {
      if (seen.has(plot) || !plot._fullLayout || !plot.on) continue;
      seen.add(plot);
      restore(plot);
      watch(plot);
    }
  }).observe(document.body, { childList: true, subtree: true });
};
