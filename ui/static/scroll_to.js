(selector, block, delayMs) => {
  // Scrolls to an element that the previous handler has shown, after the browser has drawn it.
  const scroll = () => document.querySelector(selector)?.scrollIntoView({ behavior: "smooth", block });
  setTimeout(scroll, delayMs);
};
