() => {
  // A phone offers digits for a field with an inputmode: decimal with a separator, numeric without.
  const modes = { "whole-number": "numeric", "any-number": "decimal" };
  const offer = () => {
    for (const [name, mode] of Object.entries(modes))
      for (const input of document.querySelectorAll(`.${name} input:not([inputmode])`))
        input.inputMode = mode;
  };
  new MutationObserver(offer).observe(document.body, { childList: true, subtree: true });
  offer();
};
