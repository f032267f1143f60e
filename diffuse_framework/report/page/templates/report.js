"use strict";
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  // These buttons alone: plotly's own set has one that sends the figure to a server.
  const buttons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
  const config = { responsive: true, displaylogo: false, modeBarButtons: buttons, toImageButtonOptions: { format: "png", scale: 2 } };
  const style = {
    margin: { l: 60, r: 56, t: 10, b: 50 },
    font: { family: "system-ui, Helvetica, Arial, sans-serif", size: 12 },
    paper_bgcolor: "white", plot_bgcolor: "white", legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom" },
  };
  for (const plot of data.plots) {
    const layout = Object.assign({}, style, plot.layout);
    // Room above for the buttons, and below them for the legend.
    layout.margin = Object.assign({}, style.margin, { t: layout.showlegend ? 60 : 32 });
    for (const axis of ["xaxis", "yaxis"]) {
      layout[axis] = Object.assign({ automargin: true, gridcolor: "#e5e8eb", exponentformat: "power", minexponent: 5 }, layout[axis]);
    }
    if (layout.yaxis2) layout.yaxis2 = Object.assign({ automargin: true, tickmode: "auto" }, layout.yaxis2);
    Plotly.newPlot("plot-" + plot.name, plot.traces, layout, config);
  }
  if (!data.volume) return;

  const map = data.volume, letters = ["h", "k", "l"];
  const element = (id) => document.getElementById(id);
  const status = element("slice-status");

  // Lengths of the direct axes along each reciprocal direction bound the indices that a resolution allows.
  const basis = map.basis;
  const lengthOf = (column) => Math.hypot(basis[0][column], basis[1][column], basis[2][column]);

  async function unpack(box) {
    const packed = Uint8Array.from(atob(box.data), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const bytes = await new Response(stream).arrayBuffer();
    const codes = box.bits === 16 ? new Uint16Array(bytes) : new Uint8Array(bytes);
    const values = new Float32Array(codes.length);
    for (let n = 0; n < codes.length; n++) {
      values[n] = codes[n] ? box.knee * Math.sinh(box.low + (codes[n] - 1) * box.step) : NaN;
    }
    return values;
  }

  function reachOf(axis) {
    const inverse = invert(basis);
    return Math.floor(Math.hypot(...inverse[axis]) * map.reach * map.divisions[axis]);
  }

  function invert(m) {
    const [[a, b, c], [d, e, f], [g, h, i]] = m;
    const det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
    return [
      [(e * i - f * h) / det, (c * h - b * i) / det, (b * f - c * e) / det],
      [(f * g - d * i) / det, (a * i - c * g) / det, (c * d - a * f) / det],
      [(d * h - e * g) / det, (b * g - a * h) / det, (a * e - b * d) / det],
    ];
  }

  // Number in the box of a symmetry equivalent of voxel (i, j, k) that was observed, or -1.
  function find(i, j, k, observed) {
    const [li, lj, lk] = map.index_min, [ni, nj, nk] = map.dimensions;
    for (const o of map.operators) {
      const x = o[0] * i + o[1] * j + o[2] * k - li;
      if (x < 0 || x >= ni) continue;
      const y = o[3] * i + o[4] * j + o[5] * k - lj;
      if (y < 0 || y >= nj) continue;
      const z = o[6] * i + o[7] * j + o[8] * k - lk;
      if (z < 0 || z >= nk) continue;
      const number = (x * nj + y) * nk + z;
      if (!Number.isNaN(observed[number])) return number;
    }
    return -1;
  }

  function radialMean(q) {
    const { q: at, mean } = data.radial;
    if (q <= at[0]) return mean[0];
    for (let n = 1; n < at.length; n++) {
      if (q <= at[n]) return mean[n - 1] + ((mean[n] - mean[n - 1]) * (q - at[n - 1])) / (at[n] - at[n - 1]);
    }
    return mean[at.length - 1];
  }

  function plane(values, axis, level, quantity) {
    const [rows, columns] = [0, 1, 2].filter((n) => n !== axis);
    const nRow = reachOf(rows), nColumn = reachOf(columns);
    const index = [0, 0, 0];
    index[axis] = level;
    const picture = [];
    for (let r = -nRow; r <= nRow; r++) {
      const line = new Array(2 * nColumn + 1).fill(null);
      index[rows] = r;
      for (let c = -nColumn; c <= nColumn; c++) {
        index[columns] = c;
        const hkl = index.map((n, a) => n / map.divisions[a]);
        const q = Math.hypot(...basis.map((b) => b[0] * hkl[0] + b[1] * hkl[1] + b[2] * hkl[2]));
        if (q > map.reach) continue;
        const number = find(index[0], index[1], index[2], values.intensity);
        if (number < 0) continue;
        const intensity = values.intensity[number], sigma = values.sigma[number];
        line[c + nColumn] =
          quantity === "intensity" ? intensity
          : quantity === "anisotropic" ? intensity - radialMean(q)
          : quantity === "sigma" ? sigma
          : quantity === "precision" ? (sigma > 0 ? intensity / sigma : null)
          : values.multiplicity[number];
      }
      picture.push(line);
    }
    const along = (n, axisNumber) => Array.from({ length: 2 * n + 1 }, (_, m) => (m - n) / map.divisions[axisNumber]);
    return { picture, x: along(nColumn, columns), y: along(nRow, rows), rows, columns };
  }

  function quantile(sorted, share) {
    return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : 1;
  }

  function logTicks(low, high) {
    const ticks = [];
    for (let power = Math.floor(low); power <= Math.ceil(high); power++) {
      for (const digit of [1, 2, 5]) {
        const value = power + Math.log10(digit);
        if (value >= low - 1e-9 && value <= high + 1e-9) ticks.push([value, (digit * 10 ** power).toPrecision(1)]);
      }
    }
    return { tickvals: ticks.map((t) => t[0]), ticktext: ticks.map((t) => Number(t[1]).toExponential(0)) };
  }

  // Colour scales that colour-blind eyes can read.
  const blueOrange = [[0, "#08519c"], [0.25, "#6baed6"], [0.5, "#ffffff"], [0.75, "#fdae61"], [1, "#a63603"]];
  const scales = { intensity: "Viridis", anisotropic: blueOrange, sigma: "Cividis", precision: "Viridis", multiplicity: "Cividis" };
  const names = {
    intensity: "intensity (" + data.units + ")", anisotropic: "intensity minus radial mean (" + data.units + ")",
    sigma: "sigma (" + data.units + ")", precision: "I / sigma", multiplicity: "observations",
  };

  function draw(values) {
    const axis = Number(document.querySelector("input[name=axis]:checked").value);
    const level = Number(element("level").value), quantity = element("quantity").value;
    const log = element("scale").value === "log" && quantity !== "anisotropic";
    const shown = (level / map.divisions[axis]).toFixed(3).replace(/\.?0+$/, "");
    element("level-value").textContent = shown;
    element("level-name").textContent = letters[axis].toUpperCase();
    const { picture, x, y, rows, columns } = plane(values, axis, level, quantity);
    const sorted = picture.flat().filter((v) => v !== null && (!log || v > 0)).sort((a, b) => a - b);
    const top = Number(element("top").value);
    let low = quantile(sorted, 1 - Math.max(top, 0.99)), high = quantile(sorted, top);
    if (quantity === "multiplicity" && !log) low = 0;
    if (quantity === "anisotropic") {
      high = quantile(sorted.map(Math.abs).sort((a, b) => a - b), Math.min(top, 0.98));
      low = -high;
    }
    const z = log ? picture.map((line) => line.map((v) => (v > 0 ? Math.log10(v) : null))) : picture;
    if (log) { low = Math.log10(low); high = Math.log10(high); }
    if (!Number.isFinite(low)) low = 0;
    if (!(high > low) || !Number.isFinite(high)) high = low + 1;
    const narrow = element("slice").clientWidth < 560;
    const trace = {
      type: "heatmap", x, y, z, customdata: picture, zmin: low, zmax: high, colorscale: scales[quantity],
      reversescale: false, hoverongaps: false,
      hovertemplate: letters[rows] + " = %{y:.3f}, " + letters[columns] + " = %{x:.3f}<br>%{customdata:.4g}<extra></extra>",
      colorbar: Object.assign({ thickness: 14, exponentformat: "e" }, narrow
        ? { thickness: 10, xpad: 4, nticks: 6 }
        : { title: { text: names[quantity], side: "right" } }, log ? logTicks(low, high) : {}),
    };
    const layout = Object.assign({}, style, {
      plot_bgcolor: "#dddddd",
      margin: narrow ? { l: 44, r: 50, t: 30, b: 44 } : Object.assign({}, style.margin, { t: 32 }),
      xaxis: { title: { text: letters[columns] }, constrain: "domain", zeroline: false, showgrid: false },
      yaxis: { title: { text: letters[rows] }, scaleanchor: "x", scaleratio: lengthOf(rows) / lengthOf(columns), constrain: "domain", zeroline: false, showgrid: false },
      uirevision: String(axis),
    });
    Plotly.react("slice", [trace], layout, config);
    const text = letters[axis] + " = " + shown + ": " + names[quantity] + ", " + sorted.length + " pixels of the plane have a value" +
      (sorted.length ? ", median " + quantile(sorted, 0.5).toPrecision(4) : "");
    status.textContent = text;
    element("slice").setAttribute("aria-label", "Slice through the map at " + text);
    element("slice").dataset.drawn = [axis, level, quantity, log].join(" ");
  }

  function resetLevel() {
    const axis = Number(document.querySelector("input[name=axis]:checked").value);
    const n = reachOf(axis), slider = element("level");
    slider.min = -n; slider.max = n; slider.value = 0;
  }

  async function start() {
    const values = {};
    for (const name of Object.keys(map.boxes)) values[name] = await unpack(map.boxes[name]);
    resetLevel();
    draw(values);
    let waiting = 0;
    const soon = () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(() => draw(values)); };
    for (const radio of document.querySelectorAll("input[name=axis]")) {
      radio.addEventListener("change", () => { resetLevel(); soon(); });
    }
    window.addEventListener("resize", soon);
    element("level").addEventListener("input", soon);
    for (const id of ["quantity", "scale", "top"]) element(id).addEventListener("change", soon);
    element("save").addEventListener("click", () => {
      const name = "slice_" + element("slice").dataset.drawn.replace(/ /g, "_");
      Plotly.downloadImage("slice", { format: "png", scale: 2, filename: name });
    });
  }
  start().catch((error) => { status.textContent = "The map can't be shown in this browser: " + error; });
})();
