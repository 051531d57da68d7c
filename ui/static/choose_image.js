// For the list of images: a click anywhere on a picture reports which one.
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-key]");
  if (button) trigger("chosen", { key: button.dataset.key });
});
