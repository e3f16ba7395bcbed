// The little that HTML alone cannot do: Airflow's theme, copying a text, and looking again while a task waits.
"use strict";

const REFRESH_MS = 10_000;

function followTheme() {
  let theme = null;
  try {
    theme = localStorage.getItem("theme"); // where Airflow's UI keeps it: light, dark or system
  } catch {
    // A browser may keep it from frames. Then the system's own theme is followed.
  }
  if (theme === "light" || theme === "dark") {
    document.documentElement.dataset.theme = theme;
  } else {
    delete document.documentElement.dataset.theme;
  }
}

async function copy(button) {
  const text = button.closest("figure").querySelector("pre").textContent;
  const label = button.firstChild;
  try {
    await navigator.clipboard.writeText(text);
    label.textContent = "Copied";
  } catch {
    // Without https there is no clipboard: select the text, so that a key copies it.
    getSelection().selectAllChildren(button.closest("figure").querySelector("pre"));
    label.textContent = "Selected";
  }
  setTimeout(() => { label.textContent = "Copy"; }, 2000);
}

function refresh() {
  const typed = [...document.querySelectorAll("input[type=search]")].some((one) => one.value !== one.defaultValue);
  const plays = [...document.querySelectorAll("video, audio")].some((one) => !one.paused);
  const busy = document.activeElement !== document.body || !getSelection().isCollapsed || typed || plays;
  if (document.visibilityState === "visible" && !busy) {
    location.reload();
  }
}

followTheme();
addEventListener("storage", followTheme);
addEventListener("DOMContentLoaded", () => {
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-copy]");
    if (button) {
      copy(button);
    }
  });
  if (window !== window.top) {
    // Airflow's frame opens no windows. A link to another place opens in the frame, and Back returns.
    for (const link of document.querySelectorAll("a[target]")) {
      link.removeAttribute("target");
    }
  }
  if ("refresh" in document.body.dataset) {
    setInterval(refresh, REFRESH_MS);
  }
});
