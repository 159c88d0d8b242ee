"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const slider = document.getElementById("factor");
  const all = (root, selector) => [...root.querySelectorAll(selector)];
  const articles = all(document, "article").map((article) => ({
    units: all(article, ".unit"),
    bars: all(article, ".ours"),
    verdict: article.querySelector(".verdict"),
    heard: article.querySelector(".heard"),
    layers: all(article, ".map tbody tr").map((row) => ({
      count: row.querySelector("small"),
      cells: all(row, "td"),
    })),
  }));

  function showUnit(unit, level, count) {
    unit.setAttribute("class", `unit l${level}`);
    const text = `${count} of ${data.layers} layers`;
    const title = unit.querySelector("title"); // of a patch; a word has an attribute
    if (title) title.textContent = text;
    else unit.title = text;
  }

  function showLayer(layer, digits) {
    const text = layer.count.textContent;
    const processed = digits.split("1").length - 1;
    layer.count.textContent = text.replace(/^\d+/, String(processed));
    layer.cells.forEach((cell, token) => cell.classList.toggle("on", digits[token] === "1"));
  }

  function showBar(cell, probability) {
    cell.querySelector(".bar").style.setProperty("--share", probability);
    cell.querySelector(".number").textContent = `${(100 * probability).toFixed(1)} %`;
  }

  function show(run) {
    const name = data.factors[run];
    slider.setAttribute("aria-valuetext", `r = ${name}`);
    document.getElementById("factor-name").textContent = `r = ${name}`;
    for (const element of all(document, ".r")) element.textContent = name;
    articles.forEach((article, index) => {
      const row = data.rows[index];
      article.units.forEach((unit, i) => showUnit(unit, row.levels[run][i], row.counts[run][i]));
      article.bars.forEach((cell, i) => showBar(cell, row.probabilities[run][i]));
      article.layers.forEach((layer, i) => showLayer(layer, row.layers[run][i]));
      article.verdict.textContent = row.verdicts[run];
      if (article.heard) article.heard.textContent = row.transcripts[run] || "(empty)";
    });
  }

  slider.addEventListener("input", () => show(Number(slider.value)));
})();
