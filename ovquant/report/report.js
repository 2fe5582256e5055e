"use strict";
(() => {
  const { trials, figures, winner, leader, refresh_s } = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const byNumber = new Map(trials.map((trial) => [trial.number, trial]));
  const panel = document.getElementById("panel");
  const chooser = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isShort = matchMedia("(prefers-reduced-motion: reduce)").matches;
  let isPrinting = false;

  // What a page from a file may not keep is simply not kept.
  const keep = (key, value) => { try { localStorage.setItem(key, value); } catch { /* as said */ } };
  const kept = (key) => { try { return localStorage.getItem(key) || ""; } catch { return ""; } };

  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  function themed(place) {
    const [text, line, page] = ["text", "line", "page"].map(colour);
    const figure = structuredClone(figures[place]);
    for (const trace of figure.data) {
      const own = colour(trace.meta.colour);
      trace.marker = { ...trace.marker, color: own, line: { ...trace.marker?.line, color: own } };
      if (trace.line) trace.line.color = own;
      if (trace.error_x) trace.error_x.color = own;
      if (trace.type === "box") { trace.line = { color: own }; trace.fillcolor = page; delete trace.marker; }
      if (trace.type === "bar") { trace.marker.pattern = { ...trace.marker.pattern, bgcolor: page, fgcolor: own, fillmode: "replace" }; }
      trace.textfont = { color: text };
    }
    const layout = {
      margin: { l: 60, r: 20, t: 30, b: 50 },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
      ...figure.layout,
      paper_bgcolor: page, plot_bgcolor: page, font: { color: text, family: "system-ui, sans-serif", size: 13 },
      hoverlabel: { align: "left", bgcolor: page, bordercolor: line, font: { color: text } },
    };
    for (const key of Object.keys(layout)) if (/^[xy]axis/.test(key)) layout[key] = { gridcolor: line, linecolor: line, ...layout[key] };
    for (const shape of layout.shapes || []) shape.line.color = line;
    return [figure.data, layout];
  }

  const settings = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["sendDataToCloud", "select2d", "lasso2d"] };
  // Plotly takes a second to begin: words and tables come first.
  function begin() {
    if (window.Plotly) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script);
  }
  addEventListener("load", () => setTimeout(begin, 50));

  const drawn = new Set();
  function draw(place) {
    begin();
    const chart = document.getElementById(`chart-${place}`);
    Plotly.react(chart, ...themed(place), settings);
    if (drawn.has(place)) return;
    drawn.add(place);
    chart.on("plotly_click", (event) => {
      const number = event.points[0]?.customdata;
      if (byNumber.has(number)) choose(number);
    });
  }

  // A chart is drawn when it comes near, so that the page opens at once however many there are.
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      draw(entry.target.id.slice("chart-".length));
    }
  }, { rootMargin: "300px" });

  function applyTheme() {
    const wanted = isPrinting ? "light" : chooser.value || (system.matches ? "dark" : "light");
    root.dataset.theme = wanted;
    for (const place of isPrinting ? Object.keys(figures) : drawn) draw(place);
  }

  function element(tag, text, parent) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    parent?.append(made);
    return made;
  }

  function list(title, entries) {
    if (!entries.length) return;
    element("h4", title, panel);
    const terms = element("dl", undefined, panel);
    for (const [key, value] of entries) {
      element("dt", key, terms);
      element("dd", value, terms);
    }
  }

  const number = (value, digits = 4) => (value === null || value === undefined ? "-" : String(Number(value.toPrecision(digits))));
  const range = (one, digits = 4) =>
    number(one.value, digits) + (one.low === undefined || one.low === one.high ? "" : ` [${number(one.low, 3)}, ${number(one.high, 3)}]`);

  function measured(trial) {
    if (trial.failure) return [["stage", trial.failure.stage], ["kind", trial.failure.kind], ["message", trial.failure.message]];
    const lines = trial.metrics.map((one) => [one.name, `${number(one.value)}, drop ${range(one.drop)}`]);
    lines.push(["divergence", range(trial.divergence)]);
    if (trial.speedup) lines.push(["speed-up", range(trial.speedup)], ["latency", `${number(trial.latency_ms)} ms`]);
    lines.push(["on", `${trial.n_items} validation items`], ["size", `${Math.round(trial.size_bytes / 1000)} kB, ${trial.n_fake_quantize} FakeQuantize`]);
    if (trial.stopped) lines.push(["stopped", `${trial.stopped.reason}: ${trial.stopped.name} at least ${number(trial.stopped.bound)}, limit ${number(trial.stopped.limit)}`]);
    if (trial.same_as) lines.push(["same model as", trial.same_as]);
    if (trial.fitness !== undefined) lines.push(["fitness", number(trial.fitness)]);
    lines.push(["seconds", Object.entries(trial.seconds).map(([stage, s]) => `${stage} ${number(s, 3)}`).join(", ")]);
    return lines;
  }

  const shown = (value) => (value === null ? "null" : typeof value === "object" ? JSON.stringify(value) : String(value));

  function choose(chosen, isFocused = false) {
    const trial = byNumber.get(chosen);
    panel.replaceChildren();
    element("h3", `Trial ${trial.number}: ${trial.words}${trial.role ? ` (${trial.role})` : ""}`, panel);
    element("p", trial.is, panel);
    list("Measured during the search", measured(trial));
    list("Genes", Object.entries(trial.genes));
    list("Strategy", Object.entries(trial.strategy).map(([key, value]) => [key, shown(value)]));
    list("Origin", [["code", trial.code ?? "-"], ["generation", trial.generation ?? "-"], ["parents", trial.parents.join(", ") || "none"]]);
    if (!trial.failure && trial.strategy && Object.keys(trial.strategy).length) {
      element("h4", "Write its model", panel);
      element("code", `ovquant export OUT --trial ${trial.number} -o DIR`, panel);
    }
    for (const row of document.querySelectorAll("[aria-current]")) row.removeAttribute("aria-current");
    document.querySelector(`button[data-trial="${chosen}"]`)?.closest("tr").setAttribute("aria-current", "true");
    history.replaceState(null, "", `#trial-${chosen}`);
    if (isFocused) {
      panel.focus({ preventScroll: true });
      panel.scrollIntoView({ block: "nearest", behavior: isShort ? "auto" : "smooth" });
    }
  }

  for (const button of document.querySelectorAll("button[data-trial]"))
    button.addEventListener("click", () => choose(Number(button.dataset.trial), true));

  chooser.value = kept("ovquant theme");
  chooser.addEventListener("change", () => { keep("ovquant theme", chooser.value); applyTheme(); });
  system.addEventListener("change", applyTheme);
  const opened = new Set();
  addEventListener("beforeprint", () => {
    isPrinting = true;
    for (const one of document.querySelectorAll("details:not([open])")) { one.open = true; opened.add(one); }
    applyTheme();
  });
  addEventListener("afterprint", () => {
    isPrinting = false;
    for (const one of opened) one.open = false;
    opened.clear();
    applyTheme();
  });

  const box = document.getElementById("refresh");
  if (box) {
    box.checked = kept("ovquant refresh") !== "off";
    box.addEventListener("change", () => keep("ovquant refresh", box.checked ? "" : "off"));
    setInterval(() => { if (box.checked) location.reload(); }, 1000 * refresh_s);
  }

  applyTheme();
  for (const place of Object.keys(figures)) {
    const chart = document.getElementById(`chart-${place}`);
    chart.style.minHeight = `${figures[place].layout.height}px`;
    near.observe(chart);
  }
  const asked = Number(/^#trial-(\d+)$/.exec(location.hash)?.[1] ?? winner ?? leader ?? NaN);
  if (byNumber.has(asked)) choose(asked);
})();
