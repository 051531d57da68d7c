(selector) => {
  // Clicks a link that the handler before has made: it is drawn a moment later, on a busy computer seconds later.
  const click = (tries) => {
    const link = document.querySelector(selector);
    if (link) link.click();
    else if (tries > 0) setTimeout(click, 200, tries - 1);
  };
  setTimeout(click, 200, 50);
};
