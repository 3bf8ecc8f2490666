"use strict";
(() => {
  const everyMs = 5000;
  const patienceMs = 10000;
  const parts = ["state", "figures", "plots", "feeds", "as-of"];
  const stale = document.getElementById("stale");
  let isAsking = false;

  // A screen reader reads out what changes in here: the list stays while its texts are the same,
  // and only the figures in it, which are not read out, are replaced.
  const updateTroubles = (old, fresh) => {
    if (old.dataset.texts !== fresh.dataset.texts) {
      old.dataset.texts = fresh.dataset.texts;
      old.replaceChildren(...fresh.childNodes);
      return;
    }
    const details = fresh.querySelectorAll(".detail");
    old.querySelectorAll(".detail").forEach((detail, position) => {
      if (!detail.isEqualNode(details[position])) {
        detail.replaceChildren(...details[position].childNodes);
      }
    });
  };

  const update = (text) => {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    for (const name of parts) {
      const old = document.getElementById(name);
      const now = fresh.getElementById(name);
      if (!old.isEqualNode(now)) {
        old.replaceWith(document.adoptNode(now));
      }
    }
    updateTroubles(document.getElementById("troubles"), fresh.getElementById("troubles"));
    document.title = fresh.title;
    stale.replaceChildren();
  };

  const refresh = async () => {
    if (isAsking || document.hidden) {
      return;
    }
    isAsking = true;
    try {
      const answer = await fetch(location.pathname, {
        cache: "no-store",
        signal: AbortSignal.timeout(patienceMs),
      });
      if (!answer.ok) {
        throw new Error(`status ${answer.status}`);
      }
      update(await answer.text());
    } catch {
      // Written once: a screen reader would read out each change.
      if (!stale.textContent) {
        document.title = "replicator: no answer";
        stale.textContent = "The replicator does not answer. What this page shows is old.";
      }
    } finally {
      isAsking = false;
    }
  };

  setInterval(refresh, everyMs);
  document.addEventListener("visibilitychange", refresh);
})();
