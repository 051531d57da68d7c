(storageKey) => {
  // The Train form as this browser kept it.
  try {
    return [JSON.parse(localStorage.getItem(storageKey))];
  } catch {
    return [null];
  }
};
