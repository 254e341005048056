// One tooltip for all tokens. It shows what each token's title says; without this script the browser shows the title itself.
(() => {
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  document.body.append(tip);

  for (const token of document.querySelectorAll(".t[title]")) {
    token.dataset.told = token.title;
    token.setAttribute("aria-label", `${token.textContent}; ${token.title.replaceAll("\n", "; ")}`);
    token.removeAttribute("title");
  }

  const show = (token) => {
    tip.replaceChildren();
    for (const line of token.dataset.told.split("\n")) {
      const [label, value] = line.split(": ");
      const key = document.createElement("span");
      const text = document.createElement("b");
      key.textContent = label;
      text.textContent = value;
      tip.append(key, text);
    }
    tip.hidden = false;
    const at = token.getClientRects()[0];
    const size = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, at.left + at.width / 2 - size.width / 2), document.documentElement.clientWidth - size.width - 8);
    const above = at.top - size.height - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 8 ? above : at.bottom + 8}px`;
  };
  const hide = () => { tip.hidden = true; };
  const found = (event) => event.target.closest ? event.target.closest(".t[data-told]") : null;

  document.addEventListener("mouseover", (event) => { const token = found(event); if (token) show(token); else hide(); });
  document.addEventListener("focusin", (event) => { const token = found(event); if (token) show(token); else hide(); });
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", hide, { passive: true });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    const token = found(event);
    if (!token) return;
    const all = [...token.parentElement.querySelectorAll(".t")];
    const to = { ArrowRight: all.indexOf(token) + 1, ArrowLeft: all.indexOf(token) - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined || !all[to]) return;
    event.preventDefault();
    token.tabIndex = -1;
    all[to].tabIndex = 0;
    all[to].focus();
  });
})();
