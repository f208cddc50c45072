"use strict";
// Sliders and the choice of what is on which side; without this script the pictures stay divided in the middle.
for (const figure of document.querySelectorAll(".compare")) {
  const input = figure.querySelector("input");
  input.addEventListener("input", () => figure.style.setProperty("--split", input.value + "%"));
}
for (const side of ["left", "right"]) {
  const choice = document.getElementById("choose-" + side);
  if (!choice) continue;
  choice.addEventListener("change", () => {
    for (const layer of document.querySelectorAll(".stage svg")) {
      layer.classList.toggle(side, layer.dataset.layer === choice.value);
    }
    for (const label of document.querySelectorAll(side === "left" ? ".sides .a" : ".sides .b")) {
      label.textContent = choice.value;
    }
  });
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));
