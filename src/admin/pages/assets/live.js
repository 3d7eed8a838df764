// A page's stream, held only while the page can be seen: over HTTP/1.1 a browser opens no more than six connections to a
// server, and tabs out of sight would take them all. To htmx it is one stream that lasts; whenever it is opened, the
// server sends at once what the page should show.
//
// And what somebody does with a part of the page outlives that it is brought anew: what they opened stays open, what they
// moved stays where it is, and while they hold or mark something the part waits.
(() => {
  // What is said in place of "kept up to date" while it isn't held.
  const RESTS = "Not kept up to date just now.";
  // And once what the page shows is gone, or may not be seen any more.
  const OVER = "Not kept up to date any more. Reload the page.";
  // The longest wait before a stream that was refused is asked for again. htmx would come to wait more than a minute.
  const WAIT_MS_MAX = 8_000;
  const streams = new Set();
  let isPaused = false;

  class Stream extends EventTarget {
    onopen = null;
    onerror = null;
    #url;
    #types = new Set();
    #source = null;
    #refusals = 0;
    #again = 0;

    constructor(url) {
      super();
      this.#url = url;
      streams.add(this);
      this.follow();
    }

    get readyState() {
      return this.#source ? this.#source.readyState : EventSource.CONNECTING;
    }

    addEventListener(type, listener) {
      super.addEventListener(type, listener);
      if (this.#types.has(type)) return;
      this.#types.add(type);
      if (this.#source) this.#pass(type);
    }

    close() {
      streams.delete(this);
      clearTimeout(this.#again);
      this.#source?.close();
    }

    /** Opens it if the page can be seen, or else lets go of it. */
    follow() {
      if (!streams.has(this)) return;
      if (!document.hidden && !isPaused) {
        if (!this.#source) this.#open();
      } else if (this.#source) {
        this.#source.close();
        this.#source = null;
        this.dispatchEvent(new MessageEvent("alive", { data: RESTS }));
      }
    }

    #open() {
      clearTimeout(this.#again);
      const source = new EventSource(this.#url, { withCredentials: true });
      this.#source = source;
      this.#types.forEach((type) => this.#pass(type));
      source.onopen = (event) => {
        this.#refusals = 0;
        this.onopen?.(event);
      };
      source.onerror = (event) => {
        // It won't try again by itself. To htmx it is still connecting, so it doesn't either.
        if (source.readyState === EventSource.CLOSED && this.#source === source) {
          this.#source = null;
          this.#askAgain();
        }
        this.onerror?.(event);
      };
    }

    /** Finds out why it was refused, which a stream isn't told: what can't be had now may be later, what may not be had, not. */
    async #askAgain() {
      const asking = new AbortController();
      let status = 0;
      try {
        ({ status } = await fetch(this.#url, { signal: asking.signal, redirect: "manual" }));
      } catch {
        // Nobody answers: later.
      }
      asking.abort();
      if (status >= 400 && status < 500 && status !== 429) {
        this.close();
        this.dispatchEvent(new MessageEvent("alive", { data: OVER }));
        return;
      }
      this.#again = setTimeout(() => this.follow(), Math.min(1_000 * 2 ** this.#refusals, WAIT_MS_MAX));
      this.#refusals += 1;
    }

    #pass(type) {
      this.#source.addEventListener(type, (event) => {
        this.dispatchEvent(new MessageEvent(type, { data: event.data }));
      });
    }
  }

  htmx.createEventSource = (url) => new Stream(url);
  const follow = () => streams.forEach((stream) => stream.follow());
  document.addEventListener("visibilitychange", follow);
  document.addEventListener("click", ({ target }) => {
    const button = target.closest?.("[data-pause]");
    if (!button) return;
    isPaused = !isPaused;
    button.textContent = isPaused ? "Keep it up to date" : "Pause";
    follow();
  });

  // Parts that wait, each with the event that brings it.
  const waiting = new Map();
  let isPressed = false;

  function isHeld(part) {
    const marked = getSelection();
    const isMarked = !marked.isCollapsed && marked.containsNode(part, true);
    return isMarked || (isPressed && part.matches(":hover")) || part.querySelector("input:focus, textarea:focus, select:focus");
  }

  function goOn() {
    for (const [part, [stream, event]] of waiting) {
      if (part.isConnected && isHeld(part)) continue;
      waiting.delete(part);
      stream?.dispatchEvent(new MessageEvent(event.type, { data: event.data }));
    }
  }

  addEventListener("pointerdown", () => { isPressed = true; }, true);
  // A click comes after it.
  for (const type of ["pointerup", "pointercancel"]) {
    addEventListener(type, () => { isPressed = false; setTimeout(goOn); }, true);
  }
  document.addEventListener("selectionchange", goOn);
  document.addEventListener("focusout", () => setTimeout(goOn));

  // How the elements of a part stand that somebody opens and moves, by their ids.
  let before = [];
  document.addEventListener("htmx:sseBeforeMessage", (message) => {
    const { target: part, detail: event } = message;
    if (isHeld(part)) {
      waiting.set(part, [event.target, event]);
      message.preventDefault();
      return;
    }
    waiting.delete(part);
    before = Array.from(part.querySelectorAll("[id]"), ({ id, open, scrollLeft, scrollTop }) => ({
      id, open, scrollLeft, scrollTop,
    }));
  });
  document.addEventListener("htmx:sseMessage", () => {
    for (const { id, open, scrollLeft, scrollTop } of before) {
      const element = document.getElementById(id);
      if (!element) continue;
      if (open) element.open = true;
      if (scrollLeft || scrollTop) Object.assign(element, { scrollLeft, scrollTop });
    }
    before = [];
  });
})();
