// What makes the console's forms handier; every page works without it.
"use strict";

document.addEventListener("change", (event) => {
  const box = event.target;
  if (!(box instanceof HTMLInputElement)) return;
  // One box that ticks all others of its form.
  if (box.dataset.all !== undefined) {
    for (const other of box.form.querySelectorAll(`input[name="${box.dataset.all}"]`)) other.checked = box.checked;
  }
  if (box.dataset.all !== undefined || box.dataset.counted !== undefined) {
    const ticked = box.form.querySelectorAll("input[data-counted]:checked").length;
    for (const place of box.form.querySelectorAll("[data-ticked]")) place.textContent = String(ticked);
  }
});

// Where a part of the page was replaced because somebody asked for it, readers are told.
document.addEventListener("htmx:afterSwap", (event) => {
  const heading = event.detail.target.querySelector("[data-focus]");
  if (heading) heading.focus();
});

// An answer that is an error is shown in the place of what was asked for, not swallowed.
document.addEventListener("htmx:beforeSwap", (event) => {
  const status = event.detail.xhr.status;
  const polled = event.detail.requestConfig.headers["X-Poll"];
  if (status >= 400 && status !== 401 && !polled) event.detail.shouldSwap = true;
});
