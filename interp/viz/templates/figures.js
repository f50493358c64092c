// Draws the embedded figures in the colours of the page, light or dark.
(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("figure-data").textContent);
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axes = (layout) => Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key));

  function theme(layout) {
    const update = {
      "font.color": color("--ink"),
      "font.family": "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif",
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      "hoverlabel.bgcolor": color("--surface"),
      "hoverlabel.bordercolor": color("--line"),
      "hoverlabel.font.color": color("--ink"),
      "legend.bgcolor": "rgba(0,0,0,0)",
    };
    for (const axis of axes(layout)) {
      update[`${axis}.gridcolor`] = color("--grid");
      update[`${axis}.linecolor`] = color("--line");
      update[`${axis}.zerolinecolor`] = color("--line");
      update[`${axis}.tickcolor`] = color("--line");
    }
    return update;
  }

  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };
  const draw = () => figures.forEach((figure, index) => {
    const place = document.getElementById(`figure-${index}`);
    place.style.height = `${figure.layout.height || 420}px`;
    window.Plotly.newPlot(place, figure.data, figure.layout, config).then(() => window.Plotly.relayout(place, theme(figure.layout)));
  });
  draw();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    figures.forEach((figure, index) => window.Plotly.relayout(document.getElementById(`figure-${index}`), theme(figure.layout)));
  });
})();
