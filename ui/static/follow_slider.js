(fieldId, classes, info, value) => {
  // The field in a slider's corner shows where the slider is, unless it is being typed in.
  const isTyping = document.activeElement?.closest(`#${fieldId}`);
  return [
    { elem_classes: classes, __type__: "update", ...(isTyping ? {} : { value: String(value) }) },
    { info, __type__: "update" },
  ];
};
