(storageKey, keys, defaults, ...values) => {
  // Keeps what differs from the defaults. The data set is always kept, since the first one may change.
  if (!document.body.classList.contains("form-restored")) return;
  const kept = {};
  keys.forEach((key, place) => {
    if (key === "dataset_path" || values[place] !== defaults[key]) kept[key] = values[place];
  });
  try {
    localStorage.setItem(storageKey, JSON.stringify(kept));
  } catch {
    // the browser keeps nothing
  }
};
