// The verdict, the numbers in front, and the table of scores with its bars.

function renderSummary() {
  const notices = noticeTexts().map((text) => el("p", { class: "notice" }, text));
  const cards = COMPARES ? comparisonCards() : reportCards();
  byId("summary").replaceChildren(verdictBand(), ...notices, el("div", { class: "cards" }, ...cards));
}

function verdictBand() {
  if (COMPARES) return comparisonBand();
  const partly = CONTENT.looks === false && Object.values(CONTENT.comparisons).every((row) => row.clearly_above);
  const looks = partly ? "partly" : CONTENT.looks;
  const kind = { true: "right", false: "wrong", partly: "partly", null: "unknown" }[looks];
  const margins = Object.entries(CONTENT.comparisons).map(([name, row]) =>
    el(
      "li",
      { class: row.clearly_above ? "" : "low" },
      `${t(name)} `,
      el("b", {}, `${signed(row.difference)} ± ${number(row.standard_error)}`),
    ),
  );
  const blind = CONTENT.rows.filter((row) => row.looks === false).map((row) => named("t_", row.name));
  return el(
    "div",
    { class: `verdict ${kind}` },
    el("span", { class: "badge" }, icon("", ICONS[kind])),
    el(
      "div",
      {},
      el("h2", {}, t(`looks_${looks}`)),
      blind.length ? el("p", { class: "low" }, t("types_blind", { types: blind.join(state.language === "zh" ? "、" : ", ") })) : null,
      ...weakForms(),
      margins.length ? el("ul", { class: "margins" }, el("li", { class: "muted" }, t("margin")), ...margins) : null,
    ),
  );
}

/** Forms of question that are answered as usual, whatever the picture shows; the lowest scores first. */
function weakForms() {
  const shown = CONTENT.weak_forms.slice(0, 4);
  if (!shown.length) return [];
  const forms = shown.map((row) => el("li", {}, outside("bdi", {}, row.form), el("b", {}, ` ${number(row.mean)}`), small(` (${count(row.n)})`)));
  return [el("ul", { class: "margins low" }, el("li", {}, t("weak_forms")), ...forms)];
}

function noticeTexts() {
  const { complete, answered, questions, unasked, long_references: long } = CONTENT.counts;
  return [
    complete ? null : t("interrupted", { answered: count(answered), questions: count(questions) }),
    unasked ? t("unasked", { n: count(unasked) }) : null,
    long ? t("long_references", { n: count(long) }) : null,
    COMPARES || CONTENT.probed ? null : t("no_probes"),
    CONTENT.few_images ? t("few_images", { n: CONTENT.few_images }) : null,
  ].filter((text) => text !== null);
}

function card(label, value, note, attributes = {}) {
  const inside = [el("span", { class: "label" }, label), el("span", { class: "value" }, ...value), el("span", { class: "note" }, note)];
  return el(attributes.onclick ? "button" : "div", { class: "card", ...attributes }, ...inside);
}

const small = (text) => el("small", {}, text);

function reportCards() {
  const made = [];
  const all = CONTENT.rows[0];
  if (all) {
    const { score, error } = all.series[0];
    const of = all.images ? "score_of" : "score_of_text";
    made.push(
      card(t("score"), [number(score), small(` ± ${number(error)}`)], t(of, { n: count(all.n), images: count(all.images) }), { class: "card main" }),
    );
    const best = highestBaseline(all);
    if (best) made.push(card(t("best_baseline"), [number(all.baselines[best])], t(best)));
  }
  const wrong = CONTENT.floor_wrong;
  if (wrong.n) {
    made.push(
      card(t("floor_wrong"), [number(wrong.mean), small(` ± ${number(wrong.standard_error)}`)], t("floor_wrong_hint", { n: count(wrong.n) })),
    );
  }
  const show = () => change({ ...FILTERS_OFF, show: "wrong" }, true);
  made.push(
    card(t("wrong_answers"), [count(CONTENT.counts.wrong)], t("wrong_hint", { n: count(all ? all.n : 0) }), { type: "button", onclick: show }),
  );
  return made;
}

const highestBaseline = (row) =>
  CONTENT.baselines
    .filter((name) => typeof row.baselines[name] === "number")
    .reduce((best, name) => (best === null || row.baselines[name] > row.baselines[best] ? name : best), null);

function renderLegend() {
  const entries = COMPARES
    ? ["a", "b"].map((run) => el("span", { class: `key run-${run}` }, el("i", {}), t(`run_${run}`)))
    : CONTENT.baselines
        .filter((name) => CONTENT.rows.some((row) => typeof row.baselines[name] === "number"))
        .map((name) => el("span", { class: "key" }, icon(`floor ${name}`, ICONS[name]), t(name)));
  for (const name of ["chance", "ceiling"]) {
    if (CONTENT.rows.some((row) => typeof row[name] === "number")) {
      entries.push(el("span", { class: `key bound ${name}` }, el("i", {}), t(name)));
    }
  }
  byId("legend").replaceChildren(...entries);
}

function renderScores() {
  byId("scores-title").textContent = t("scores");
  byId("scores-hint").textContent = t(COMPARES ? "scores_hint_comparison" : "scores_hint");
  renderLegend();
  const lines = [];
  for (const kind of ["all", "type", "language", "source"]) {
    const rows = CONTENT.rows.filter((row) => row.kind === kind);
    if (kind !== "all" && kind !== "type" && rows.length < 2) continue; // it would repeat the row of all
    if (rows.length && kind !== "all") lines.push(el("h3", {}, t(`by_${kind}`)));
    lines.push(...rows.map(scoreRow));
  }
  const ends = ["0", "0.25", "0.5", "0.75", "1"].map((text) => el("span", {}, text));
  lines.push(el("div", { class: "axis", "aria-hidden": "true" }, el("span"), el("div", {}, ...ends), el("span")));
  byId("scores").className = COMPARES ? "compares" : "";
  byId("scores").replaceChildren(...lines);
  renderNumbers();
}

/** The name of a row's group as the reader knows it. */
function rowName(row) {
  if (row.kind === "all") return t("all");
  return row.kind === "type" ? named("t_", row.name) : row.kind === "language" ? named("l_", row.name) : row.name;
}

const FIELD = { type: "type", language: "spoken", source: "source" }; // kind of a row -> field of the state

function scoreRow(row) {
  const chosen = row.kind === "all" ? false : state[FIELD[row.kind]] === row.name;
  const pick = () => change({ ...FILTERS_OFF, ...(row.kind === "all" ? {} : { [FIELD[row.kind]]: row.name }) }, true);
  return el(
    "button",
    { class: `row ${row.kind}`, type: "button", "aria-pressed": String(chosen), onclick: pick, title: rowTitle(row) },
    el("span", { class: "name" }, outside("bdi", {}, rowName(row)), small(` ${count(row.n)}`)),
    plot(row),
    el("span", { class: "result" }, ...rowResult(row)),
  );
}

function rowTitle(row) {
  const lines = CONTENT.baselines.filter((name) => typeof row.baselines[name] === "number");
  const texts = lines.map((name) => `${t(name)}: ${number(row.baselines[name])}`);
  for (const name of ["chance", "ceiling"]) if (typeof row[name] === "number") texts.push(`${t(name)}: ${number(row[name])}`);
  return texts.join("\n");
}

function rowResult(row) {
  if (COMPARES) return differenceCells(row);
  const { score, error } = row.series[0];
  const found = [el("b", {}, number(score)), small(` ± ${number(error)}`)];
  if (row.looks === false) found.push(el("span", { class: "tag low" }, t("blind_mark")));
  return found;
}

/** The bars of one row: what the best baseline reaches is pale, the rest is what the picture adds. */
function plot(row) {
  const at = (value) => `${100 * Math.min(Math.max(value, 0), 1)}%`;
  const made = el("span", { class: `plot series-${row.series.length}`, "aria-hidden": "true" });
  const best = COMPARES ? null : highestBaseline(row);
  row.series.forEach(({ score, error }, i) => {
    const bar = el("span", { class: `bar bar-${i}` });
    const pale = el("i", { class: "pale" });
    const solid = el("i", { class: "solid" });
    const from = best === null ? 0 : Math.min(row.baselines[best], score);
    pale.style.width = at(from);
    solid.style.left = at(from);
    solid.style.width = at(score - from);
    bar.append(pale, solid);
    if (error !== null) {
      const whisker = el("i", { class: "whisker" });
      whisker.style.left = at(score - 2 * error);
      whisker.style.width = at(Math.min(score + 2 * error, 1) - Math.max(score - 2 * error, 0));
      bar.append(whisker);
    }
    made.append(bar);
  });
  for (const name of COMPARES ? [] : CONTENT.baselines) {
    if (typeof row.baselines[name] !== "number") continue;
    const floor = icon(`floor ${name}`, ICONS[name]);
    floor.style.left = at(row.baselines[name]);
    made.append(floor);
  }
  for (const name of ["chance", "ceiling"]) {
    if (typeof row[name] !== "number") continue;
    const bound = el("i", { class: `bound ${name}` });
    bound.style.left = at(row[name]);
    made.append(bound);
  }
  return made;
}

// ------------------------------------------------------------------------------------------ two runs

function comparisonBand() {
  const { difference, standard_error: error, clear } = CONTENT.difference;
  const kind = !clear ? "unknown" : difference > 0 ? "right" : "wrong";
  const runs = CONTENT.runs.map((run, i) =>
    el("li", {}, el("span", { class: `key run-${"ab"[i]}` }, el("i", {}), t(`run_${"ab"[i]}`)), " ", outside("bdi", {}, run)),
  );
  return el(
    "div",
    { class: `verdict ${kind}` },
    el("span", { class: "badge" }, icon("", ICONS[kind])),
    el(
      "div",
      {},
      el("h2", {}, `${t("difference")}: ${difference === null ? "–" : signed(difference)} ± ${number(error)}`),
      el("p", {}, t(clear ? (difference > 0 ? "higher" : "lower") : "unclear")),
      el("ul", { class: "margins" }, ...runs),
    ),
  );
}

function comparisonCards() {
  const all = CONTENT.rows[0];
  const made = !all
    ? []
    : all.series.map(({ score, error }, i) =>
        card(t(`run_${"ab"[i]}`), [number(score), small(` ± ${number(error)}`)], t("score_of", { n: count(all.n), images: count(all.images) }), {
          class: `card main run-${"ab"[i]}`,
        }),
      );
  const { listed, gained, lost } = CONTENT.counts;
  made.push(
    card(t("changed_answers"), [count(listed)], t("gained_lost", { gained: count(gained), lost: count(lost) }), { type: "button", onclick: () => change(FILTERS_OFF, true) }),
  );
  return made;
}

function differenceCells(row) {
  const { difference, standard_error: error, clear } = row.difference;
  const found = [el("b", {}, signed(difference)), small(` ± ${number(error)}`)];
  if (clear) found.push(el("span", { class: `tag ${difference > 0 ? "high" : "low"}` }, t(difference > 0 ? "higher" : "lower")));
  return found;
}

// ------------------------------------------------------------------------------------------ tables

function table(headings, lines) {
  const cell = (name, text, i) => outside(name, { class: i ? "" : "first", scope: name === "th" ? "col" : null }, text);
  return el(
    "table",
    {},
    el("thead", {}, el("tr", {}, ...headings.map((text, i) => cell("th", text, i)))),
    el("tbody", {}, ...lines.map((line) => el("tr", {}, ...line.map((text, i) => cell("td", text, i))))),
  );
}

/** Every number of the rows: for those who read tables, and for copying. */
function renderNumbers() {
  const runs = COMPARES ? ["a", "b"].map((run) => t(`run_${run}`)) : [t("score")];
  const metrics = [...new Set(CONTENT.rows.flatMap((row) => Object.keys(row.metrics)))];
  const extra = ["chance", "ceiling"].filter((name) => CONTENT.rows.some((row) => typeof row[name] === "number"));
  const headings = [t("group"), t("n"), t("images"), ...runs.flatMap((run) => [run, t("error")])];
  if (COMPARES) headings.push(t("difference"), t("error"));
  else headings.push(...CONTENT.baselines.map((name) => t(name)));
  headings.push(...extra.map((name) => t(name)), ...(metrics.length > 1 ? metrics : []));
  const lines = CONTENT.rows.map((row) => {
    const line = [rowName(row), count(row.n), count(row.images), ...row.series.flatMap((one) => [number(one.score), number(one.error)])];
    if (COMPARES) line.push(signed(row.difference.difference), number(row.difference.standard_error));
    else line.push(...CONTENT.baselines.map((name) => number(row.baselines[name])));
    line.push(...extra.map((name) => number(row[name])));
    if (metrics.length > 1) line.push(...metrics.map((name) => (row.metrics[name] || []).map((mean) => `${number(mean.mean)} (${count(mean.n)})`).join(" / ")));
    return line;
  });
  byId("numbers").firstElementChild.textContent = t("numbers");
  byId("numbers").lastElementChild.replaceChildren(table(headings, lines));
}

function renderCaptions() {
  byId("captions-panel").hidden = !CONTENT.captions.length;
  if (!CONTENT.captions.length) return;
  byId("captions-title").textContent = t("captions");
  const metrics = Object.keys(CONTENT.captions[0]).filter((key) => !["source", "language", "n"].includes(key));
  const lines = CONTENT.captions.map((row) => [
    `${row.source || t("all")} · ${named("l_", row.language)}`,
    count(row.n),
    ...metrics.map((metric) => number(row[metric])),
  ]);
  byId("captions").replaceChildren(table([t("source"), t("n"), ...metrics], lines));
}

/** Accuracy against strength, a line for each kind of worse picture; the dashed line is the blind floor. */
function renderCorruptions() {
  const found = CONTENT.corruptions;
  byId("corruptions-panel").hidden = !found;
  if (!found) return;
  byId("corruptions-title").textContent = t("corruptions");
  byId("corruptions-hint").textContent = t("corruptions_hint");
  const [width, height, left] = [420, 220, 40];
  const x = (strength) => left + (strength * (width - left - 10)) / 3;
  const y = (score) => 10 + (1 - score) * (height - 40);
  const colors = ["#1f5fa8", "#d9641e", "#2e8b57", "#8f6ab8", "#b03060"];
  const plot = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": t("corruptions") });
  const label = (at, text) => {
    const made = svg("text", { ...at, "font-size": 11, fill: "currentColor" });
    made.textContent = text;
    plot.append(made);
  };
  for (const score of [0, 0.5, 1]) {
    plot.append(svg("path", { d: `M${left} ${y(score)}H${width - 10}`, stroke: "currentColor", "stroke-opacity": 0.2 }));
    label({ x: 8, y: y(score) + 4 }, String(score));
  }
  for (const strength of [0, 1, 2, 3]) label({ x: x(strength) - 3, y: height - 8 }, String(strength));
  if (found.blind.mean !== null) {
    plot.append(svg("path", { d: `M${left} ${y(found.blind.mean)}H${width - 10}`, stroke: "currentColor", "stroke-dasharray": "4 4" }));
  }
  found.kinds.forEach((row, i) => {
    const points = row.scores.map((mean, strength) => `${x(strength)},${y(mean.mean || 0)}`).join(" ");
    plot.append(svg("polyline", { points, fill: "none", stroke: colors[i], "stroke-width": 2 }));
  });
  const key = found.kinds.map((row, i) => {
    const mark = svg("svg", { width: 16, height: 10 });
    mark.append(svg("path", { d: "M0 5H16", stroke: colors[i], "stroke-width": 3 }));
    return el("span", { class: "key" }, mark, ` ${named("c_", row.kind)}`);
  });
  const lines = found.kinds.map((row) => [named("c_", row.kind), ...row.scores.map((mean) => `${number(mean.mean)} ± ${number(mean.standard_error)}`)]);
  byId("corruptions").replaceChildren(el("div", { class: "legend" }, ...key), plot, table([t("strength"), "0", "1", "2", "3"], lines));
}
