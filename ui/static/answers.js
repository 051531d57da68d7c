() => {
  // Remembers which question each part of the page was asked last, and which one it answers now. If the two
  // differ, the part is marked at once, without the server, which may be busy; see ui/answers.py.
  const parts = new Map(),
    asked = new Map(),
    answered = new Map(),
    done = new Map();
  let serial = 0;
  const VOID = "!"; // before a question that has no answer: a field is wrong

  const markText = ({ name, updating, other, keeps }) => {
    const wanted = asked.get(name),
      shown = answered.get(name) === null ? "?" : (answered.get(name) ?? "");
    if (wanted === undefined || shown === wanted || (keeps && !shown)) return null;
    return keeps || shown === VOID + wanted ? other : updating;
  };

  const mark = ({ shown_in }) => {
    for (const element of document.querySelectorAll(shown_in)) {
      // an element may be shown in several parts
      const stale = [...parts.values()].find((part) => element.matches(part.shown_in) && markText(part));
      const text = stale ? markText(stale) : null;
      if (text === null) {
        if (!("stale" in element.dataset)) continue;
        delete element.dataset.stale;
        element.removeAttribute("aria-busy");
        element.removeAttribute("aria-description");
      } else if (element.dataset.stale !== text) {
        element.dataset.stale = text;
        element.setAttribute("aria-busy", String(text === stale.updating));
        element.setAttribute("aria-description", text);
      }
    }
  };

  const register = (part) => {
    if (!parts.has(part.name)) parts.set(part.name, part);
    return parts.get(part.name);
  };

  window.fiducialAnswers = {
    ask(part, question) {
      asked.set(part.name, question);
      mark(register(part));
    },
    askAnew(part) {
      this.ask(part, `#${++serial}`);
    },
    forget(part) {
      asked.set(part.name, asked.get(part.name) ?? "");
      answered.set(part.name, null);
      mark(register(part));
    },
    asked(part) {
      return asked.get(part.name) ?? "";
    },
    unanswered(part) {
      const wanted = asked.get(part.name) ?? "",
        shown = answered.get(part.name) ?? "";
      return shown === wanted || shown === VOID + wanted ? "" : wanted;
    },
    answer(part, question) {
      const { name } = part,
        wanted = asked.get(name);
      answered.set(name, question);
      if (question === wanted || question === VOID + wanted) done.set(name, wanted);
      // a late answer to an earlier question was drawn over the right one
      else if (wanted !== undefined && done.get(name) === wanted) {
        done.delete(name);
        document.querySelector(`#again-${name}`)?.click();
      }
      mark(register(part));
    },
  };

  // Gradio may draw an element again, without its mark
  let waits = false;
  new MutationObserver(() => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => {
      waits = false;
      parts.forEach(mark);
    });
  }).observe(document.body, { childList: true, subtree: true });
};
