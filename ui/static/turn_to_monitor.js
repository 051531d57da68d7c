(isTraining) => {
  // The page opens on Monitor while a run is alive, unless the user has already left the first tab.
  const isOnTrain = document.querySelector("#train-form").offsetParent !== null;
  return isTraining && isOnTrain ? { selected: "monitor", __type__: "update" } : { __type__: "update" };
};
