"use strict";
/* The admin's side of App Bridge: answers the framed app, and only it. */
(() => {
  const config = JSON.parse(document.getElementById("config").textContent);
  const frame = document.getElementById("app");
  const toast = document.getElementById("toast");
  const post = async (path, body) => {
    const response = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    const value = await response.json();
    if (!response.ok) throw new Error(value.error || `The admin answered ${response.status}`);
    return value;
  };
  const who = { shop: config.shop, user: config.user };
  const translate = (url) => {
    if (url.startsWith("shopify:admin")) return `/store/${config.shop.replace(/\.myshopify\.com$/, "")}${url.slice(13)}`;
    /* https://{shop} and https://admin.shopify.com are played by the stand-in. */
    const parsed = new URL(url);
    if (/^https:\/\/([a-z0-9-]+\.myshopify\.com|admin\.shopify\.com)$/.test(parsed.origin)) {
      return `${config.shopify}/${parsed.host}${parsed.pathname}${parsed.search}`;
    }
    if (parsed.protocol !== "http:" && parsed.protocol !== "https:") throw new Error("Only web addresses are opened");
    return parsed.href;
  };
  const answers = {
    "id-token": async () => (await post("/api/bridge/id_token", who)).id_token,
    navigate: async (data) => location.assign(translate(data.url)),
    toast: async (data) => {
      toast.textContent = data.text;
      toast.className = data.error ? "shown error" : "shown";
      setTimeout(() => (toast.className = ""), 4000);
    },
    loading: async () => {},
    user: async () => ({ id: config.user }),
    "scopes-query": async () => post("/api/actions/scopes", { shop: config.shop }),
    "scopes-request": async (data) => {
      const scopes = encodeURIComponent([].concat(data.scopes).join(","));
      const path = `/admin/oauth/install?client_id=${config.client_id}&optional_scopes=${scopes}`;
      location.assign(`${config.shopify}/${config.shop}${path}`);
    },
    "scopes-revoke": async (data) => post("/api/actions/scopes", { shop: config.shop, revoke: [].concat(data.scopes) }),
  };
  window.addEventListener("message", async (event) => {
    /* Attack: another frame asks for the merchant's ID token. Only our frame, only the app's own origin. */
    if (event.source !== frame.contentWindow || event.origin !== config.app_origin) return;
    const data = event.data;
    if (!data || data.source !== "app-bridge" || !answers[data.type]) return;
    try {
      const value = await answers[data.type](data);
      event.source.postMessage({ id: data.id, value }, event.origin);
    } catch (error) {
      event.source.postMessage({ id: data.id, error: error.message }, event.origin);
    }
  });
})();
