() => {
  // A phone's keyboard has digits for a field that says so: the decimal one with a separator, the numeric one without.
  const modes = { "whole-number": "numeric", "any-number": "decimal" };
  const offer = () => {
    for (const [name, mode] of Object.entries(modes))
      for (const input of document.querySelectorAll(`.${name} input:not([inputmode])`))
        input.inputMode = mode;
  };
  new MutationObserver(offer).observe(document.body, { childList: true, subtree: true });
  offer();
};
