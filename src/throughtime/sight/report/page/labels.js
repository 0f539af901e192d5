// Classification results: the confusion matrix and tables.

function buildConfusion() {
  const { labels, counts, of } = DATA.confusion;
  const head = make("tr", {}, make("td"), ...labels.map((name) => make("th", { scope: "col" }, make("span", { text: name }))));
  const rows = labels.map((name, k) => {
    const total = counts[k].reduce((a, b) => a + b, 0);
    const cells = counts[k].map((count, n) => {
      const cell = make("td", { text: count || "" });
      const share = total ? count / total : 0;
      if (count) cell.style.backgroundColor = `rgb(${variable(k === n ? "--back" : "--surprise")} / ${(0.08 + 0.72 * Math.sqrt(share)).toFixed(3)})`;
      cell.dataset.tip = k === n
        ? `${name}: ${count} of ${total} ${of} found (${percent(share)})`
        : `${count} of ${total} ${of} with label ${name} (${percent(share)})\npredicted ${labels[n]}`;
      return cell;
    });
    return make("tr", {}, make("th", { scope: "row", text: name }), ...cells);
  });
  const table = byId("confusion-table");
  table.classList.toggle("dense", labels.length > 12);
  table.replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
  table.onpointermove = (event) => {
    const tip = event.target.closest("td")?.dataset.tip;
    if (tip) showTip(tip, event.clientX, event.clientY);
    else hideTip();
  };
  table.onpointerleave = hideTip;
}

function buildTables() {
  DATA.tables.forEach(({ columns, rows }, number) => {
    const isNumber = columns.map((_, k) => rows.some((row) => typeof row[k] === "number"));
    // JSON drops the decimal point of a share that is an integer, such as 1.0.
    const isShare = columns.map((_, k) => isNumber[k] && rows.every((row) => row[k] <= 1));
    const cell = (value, k) => {
      if (!isNumber[k]) return make("td", {}, make("bdi", { text: flat(String(value)) }));
      return make("td", { class: "number", text: isShare[k] ? `${(100 * value).toFixed(1)}%` : value.toLocaleString("en") });
    };
    const head = make("tr", {}, ...columns.map((name, k) => make("th", isNumber[k] ? { scope: "col", class: "number", text: name } : { scope: "col", text: name })));
    const body = rows.map((row) => make("tr", {}, ...row.map(cell)));
    byId(`table-of-${number}`).replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
  });
}
