// Keeps a page current: the server says over server-sent events which parts changed and sends them
// as finished HTML, in which everything a device chose is escaped.
"use strict";

(() => {
  const root = document.documentElement;
  const find = (selector) => document.querySelector(selector);

  // The content security policy lets only this policy make HTML of a string.
  const trusted = window.trustedTypes
    ? window.trustedTypes.createPolicy("vauban", { createHTML: (text) => text })
    : { createHTML: (text) => text };

  const parse = (html) => {
    const t = document.createElement("template");
    t.innerHTML = trusted.createHTML(html);
    return t.content.firstElementChild;
  };

  // --- times, in the reader's own zone ---

  const dateTime = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
  const ago = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });

  const relative = (then) => {
    const s = Math.round((then - Date.now()) / 1000);
    if (s > -60) return ago.format(Math.min(s, 0), "second");
    if (s > -3600) return ago.format(Math.round(s / 60), "minute");
    if (s > -86400) return ago.format(Math.round(s / 3600), "hour");
    return dateTime.format(then);
  };

  const showTimes = (within) => {
    for (const el of within.querySelectorAll("time")) {
      const then = new Date(el.dateTime);
      if (!el.title) el.title = dateTime.format(then) + " (" + el.dateTime + ")";
      const text = el.closest(".message") ? clock.format(then) : relative(then);
      if (el.textContent !== text) el.textContent = text;
    }
  };
  showTimes(document);
  setInterval(() => showTimes(document), 5000);

  // --- the parts of the page ---

  const say = (text) => {
    const el = find("[data-say]");
    if (el) el.textContent = text;
  };

  const region = (name, part) => {
    const el = find(`[data-region="${name}"]`);
    if (!el || el.dataset.v === part.v) return;
    const scrolled = el.querySelector("pre")?.scrollTop;
    el.innerHTML = trusted.createHTML(part.html);
    el.dataset.v = part.v;
    showTimes(el);
    if (scrolled) el.querySelector("pre")?.scrollTo(0, scrolled);
  };

  const rows = (list) => new Map(Array.from(list.children, (el) => [el.dataset.key, el]));

  let greeted = false; // whether the first view of this page came: later rows are news

  const view = (update) => {
    for (const [name, part] of Object.entries(update.regions ?? {})) region(name, part);
    const list = update.list && find(`[data-list="${update.list}"]`);
    if (list) {
      const known = rows(list);
      const focused = document.activeElement?.closest("[data-key]");
      for (const part of update.rows ?? []) {
        const old = known.get(part.key);
        if (old && old.dataset.v === part.v) continue;
        const fresh = parse(part.html);
        showTimes(fresh);
        known.set(part.key, fresh);
        if (old) {
          old.replaceWith(fresh);
          if (focused === old) fresh.querySelector("a, button, [tabindex]")?.focus({ preventScroll: true });
        } else {
          list.append(fresh);
          if (greeted) {
            fresh.classList.add("fresh");
            if (fresh.dataset.news) say(fresh.dataset.news);
          }
        }
      }
      const order = update.emptied ? [] : update.order;
      if (order) {
        const wanted = new Set(order);
        for (const [key, el] of known) if (!wanted.has(key)) el.remove();
        let at = list.firstElementChild;
        for (const key of order) {
          const el = known.get(key);
          if (el === at) at = at.nextElementSibling;
          else if (el) list.insertBefore(el, at);
        }
      }
    }
    greeted = true;
  };

  // --- messages ---

  const maxMessages = 100;
  let lost = 0;

  const messages = (data) => {
    const list = find("[data-messages]");
    if (!list) return;
    // Whoever scrolled down to read is not moved by what arrives above.
    const before = list.scrollHeight;
    for (const html of data.html) {
      const el = parse(html);
      showTimes(el);
      el.classList.add("fresh");
      list.prepend(el);
    }
    while (list.childElementCount > maxMessages) list.lastElementChild.remove();
    if (list.scrollTop > 0) list.scrollTop += list.scrollHeight - before;
    find("[data-messages-empty]").hidden = true;
    if (data.lost) {
      lost += data.lost;
      const note = find("[data-lost]");
      note.hidden = false;
      note.textContent = `Messages arrive faster than they can be shown; ${lost.toLocaleString()} were left out.`;
    }
  };

  // --- the stream ---

  let source = null;
  let paused = false;
  let trouble = "";
  const light = find("[data-live]");

  const show = (state, text) => {
    root.dataset.state = state;
    if (!light) return;
    light.dataset.live = state;
    light.querySelector("[data-live-text]").textContent = text;
  };

  const close = () => {
    source?.close();
    source = null;
  };

  const open = () => {
    const address = root.dataset.stream;
    if (source || !address || paused || document.hidden) return;
    show("connecting", "Connecting");
    const s = new EventSource(address);
    source = s;
    s.addEventListener("view", (e) => {
      trouble = "";
      show("live", "Live");
      view(JSON.parse(e.data));
    });
    s.addEventListener("messages", (e) => messages(JSON.parse(e.data)));
    s.addEventListener("trouble", (e) => {
      trouble = JSON.parse(e.data);
      show("trouble", trouble);
      say(trouble);
    });
    s.addEventListener("missing", () => {
      close();
      show("trouble", "This device was deleted");
      say("This device was deleted");
    });
    s.addEventListener("gone", () => location.reload());
    s.addEventListener("error", () => {
      if (source !== s) return;
      if (s.readyState === EventSource.CLOSED) {
        // Refused, most likely because the session ended; the page itself says what to do.
        close();
        show("connecting", "Reconnecting");
        setTimeout(() => location.reload(), 3000);
        return;
      }
      show("connecting", "Reconnecting");
    });
  };

  if (light && root.dataset.stream) {
    light.hidden = false;
    const button = light.querySelector("[data-pause]");
    button.addEventListener("click", () => {
      paused = !paused;
      button.textContent = paused ? "Resume" : "Pause";
      if (paused) {
        close();
        show("paused", "Paused");
      } else {
        open();
      }
    });
  }

  // A browser opens six connections to one server; hidden pages leave theirs to others.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) close();
    else open();
  });
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  open();

  // --- the filter works while it is typed ---

  const filter = find("[data-filter]");
  if (filter) {
    let waiting = 0;
    const apply = () => {
      const q = filter.elements.q.value.trim();
      const query = q ? "?" + new URLSearchParams({ q }) : "";
      history.replaceState(null, "", "/console/devices" + query);
      root.dataset.stream = "/console/devices/stream" + query;
      close();
      greeted = false;
      open();
    };
    filter.elements.q.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(apply, 150);
    });
    filter.addEventListener("submit", (e) => {
      if (paused || !source) return; // the server answers
      e.preventDefault();
      clearTimeout(waiting);
      apply();
    });
  }
})();
