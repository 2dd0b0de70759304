"use strict";
// The page reads well without this: the heat then lies on the films at a fixed opacity.
for (const box of document.querySelectorAll(".strength")) {
  const slider = box.querySelector("input");
  const shown = box.querySelector("output");
  const viewer = box.closest(".viewer");
  const apply = () => {
    viewer.style.setProperty("--heat", slider.value / 100);
    shown.textContent = slider.value + " %";
  };
  slider.addEventListener("input", apply);
  box.hidden = false;
  apply(); // a browser may remember the slider of the last visit
}
