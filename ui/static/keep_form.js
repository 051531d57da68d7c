(storageKey, keys, defaults, ...values) => {
  // Gathers the form's values by key. Keeps what differs from the defaults; the data set always, since the first
  // one may change.
  const form = Object.fromEntries(keys.map((key, place) => [key, values[place]]));
  if (!document.body.classList.contains("form-restored")) return [form];
  const kept = {};
  for (const key of keys) if (key === "dataset_path" || form[key] !== defaults[key]) kept[key] = form[key];
  try {
    localStorage.setItem(storageKey, JSON.stringify(kept));
  } catch {
    // the browser keeps nothing
  }
  return [form];
};
