// A page's stream, held only while the page can be seen: over HTTP/1.1 a browser opens no more than six connections to a
// server, and tabs out of sight would take them all. To htmx it is one stream that lasts; whenever it is opened, the
// server sends at once what the page should show.
(() => {
  // What is said in place of "kept up to date" while it isn't held.
  const RESTS = "Not kept up to date just now.";
  const streams = new Set();

  class Stream extends EventTarget {
    onopen = null;
    onerror = null;
    #url;
    #types = new Set();
    #source = null;

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
      this.#source?.close();
    }

    /** Opens it if the page can be seen, or else lets go of it. */
    follow() {
      if (!document.hidden) {
        if (!this.#source) this.#open();
      } else if (this.#source) {
        this.#source.close();
        this.#source = null;
        this.dispatchEvent(new MessageEvent("alive", { data: RESTS }));
      }
    }

    #open() {
      const source = new EventSource(this.#url, { withCredentials: true });
      this.#source = source;
      this.#types.forEach((type) => this.#pass(type));
      source.onopen = (event) => this.onopen?.(event);
      source.onerror = (event) => {
        // It won't try again by itself: htmx makes another.
        if (source.readyState === EventSource.CLOSED) streams.delete(this);
        this.onerror?.(event);
      };
    }

    #pass(type) {
      this.#source.addEventListener(type, (event) => {
        this.dispatchEvent(new MessageEvent(type, { data: event.data }));
      });
    }
  }

  htmx.createEventSource = (url) => new Stream(url);
  document.addEventListener("visibilitychange", () => streams.forEach((stream) => stream.follow()));
})();
