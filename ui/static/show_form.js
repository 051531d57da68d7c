() => {
  document.body.classList.add("form-restored");
};
