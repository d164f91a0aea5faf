// Reloads the page of `report --watch` when the server has another one.
"use strict";
(() => {
  const PAUSE = 2000; // milliseconds
  const state = document.getElementById("live");

  async function look() {
    try {
      const answer = await fetch(location.pathname, { method: "HEAD", cache: "no-store" });
      if (answer.headers.get("ETag") !== `"${state.dataset.version}"`) location.reload();
      state.textContent = "Live: this page follows the search.";
    } catch {
      state.textContent = "No longer live: the command that served this page has ended.";
    }
    setTimeout(look, PAUSE);
  }

  setTimeout(look, PAUSE);
})();
