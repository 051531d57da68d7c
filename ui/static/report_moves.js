(selector) => {
  // Waits until what was typed or moved in the picture is on its way to Python.
  return document.querySelector(`${selector} .annotator`).report();
};
