/* App Bridge for the local stand-in: what the app's documents use of it, and nothing more. It is served by the admin that
   frames the app, so that its own address tells it whom to talk to. */
(() => {
  "use strict";
  const script = document.currentScript;
  const admin = new URL(script.src).origin;
  const meta = document.querySelector('meta[name="shopify-api-key"]');
  const apiKey = script.dataset.apiKey || (meta && meta.content) || "";
  const parameters = new URLSearchParams(location.search);
  const framed = window.parent !== window;
  const waiting = new Map();
  let number = 0;

  const ask = (type, detail = {}) =>
    new Promise((resolve, reject) => {
      if (!framed) {
        reject(new Error("App Bridge: this page is not inside the admin"));
        return;
      }
      const id = `${Date.now()}-${++number}`;
      waiting.set(id, { resolve, reject });
      window.parent.postMessage({ source: "app-bridge", id, type, ...detail }, admin);
      setTimeout(() => {
        if (waiting.delete(id)) reject(new Error(`App Bridge: the admin did not answer (${type})`));
      }, 10000);
    });

  window.addEventListener("message", (event) => {
    if (event.source !== window.parent || event.origin !== admin || !event.data) return;
    const pending = waiting.get(event.data.id);
    if (!pending) return;
    waiting.delete(event.data.id);
    if (event.data.error) pending.reject(new Error(event.data.error));
    else pending.resolve(event.data.value);
  });

  const idToken = () => ask("id-token");
  const nativeFetch = window.fetch.bind(window);
  const nativeOpen = window.open.bind(window);

  /* Requests to the app's own origin carry an ID token; a refused one is replayed once with a fresh token. */
  window.fetch = async (input, init) => {
    const request = new Request(input, init);
    const own = new URL(request.url, location.href).origin === location.origin;
    if (!own || !framed || request.headers.has("Authorization")) return nativeFetch(request);
    const replay = request.clone();
    const send = async (which) => {
      const headers = new Headers(which.headers);
      headers.set("Authorization", `Bearer ${await idToken()}`);
      headers.set("X-Requested-With", "XMLHttpRequest");
      return nativeFetch(new Request(which, { headers }));
    };
    let response = await send(request);
    if (response.status === 401 && response.headers.get("X-Shopify-Retry-Invalid-Session-Request")) {
      response = await send(replay);
    }
    const elsewhere = response.headers.get("X-Shopify-API-Request-Failure-Reauthorize-Url");
    if (response.status === 401 && elsewhere) window.open(new URL(elsewhere, location.href).href, "_top");
    return response;
  };

  /* A frame may not move the admin by itself; the admin does it. */
  window.open = (url, target, features) => {
    const outside = target === "_top" || target === "_parent" || String(url).startsWith("shopify:");
    if (framed && outside) {
      const text = String(url);
      const absolute = text.startsWith("shopify:") ? text : new URL(text, location.href).href;
      ask("navigate", { url: absolute }).catch(() => {});
      return null;
    }
    return nativeOpen(url, target, features);
  };

  window.shopify = {
    config: {
      apiKey,
      host: parameters.get("host") || "",
      shop: parameters.get("shop") || "",
      locale: parameters.get("locale") || "en",
    },
    environment: { embedded: framed, mobile: false, pos: false },
    ready: Promise.resolve(),
    idToken,
    loading: (on) => void ask("loading", { on: on !== false }).catch(() => {}),
    toast: {
      show: (text, options = {}) => void ask("toast", { text: String(text), error: !!options.isError }).catch(() => {}),
      hide: () => {},
    },
    scopes: {
      query: () => ask("scopes-query"),
      request: (scopes) => ask("scopes-request", { scopes }),
      revoke: (scopes) => ask("scopes-revoke", { scopes }),
    },
    user: async () => (await ask("user")),
  };

  /* The bounce page: come back to the page that was asked for, with a fresh ID token. */
  const back = parameters.get("shopify-reload");
  if (back) {
    const target = new URL(back, location.href);
    if (target.origin === location.origin) {
      if (framed) {
        idToken().then(
          (token) => {
            target.searchParams.set("id_token", token);
            location.replace(target.href);
          },
          (error) => console.error(error),
        );
      } else {
        const name = (parameters.get("shop") || "").replace(/\.myshopify\.com$/, "");
        location.replace(`${admin}/store/${encodeURIComponent(name)}/apps/${encodeURIComponent(apiKey)}`);
      }
    }
  }
})();
