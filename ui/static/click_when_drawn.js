(selector) => {
  // Clicks a link that the previous handler has made; it is drawn a moment later, or seconds on a busy computer.
  const click = (tries) => {
    const link = document.querySelector(selector);
    if (link) link.click();
    else if (tries > 0) setTimeout(click, 200, tries - 1);
  };
  setTimeout(click, 200, 50);
};
